"""What `workbench.tasks._extract` takes from where, and the words that were written for this project.

A place is ``("handbook", page, paragraph numbers)``, ``("python", page, heading, block numbers)`` or
``("bible", verses)``.
"""

HAYSTACK = "gen24:1-gen50:26"

CONFUSED = {
    "its": "it's", "it's": "its", "their": "there", "there": "their", "to": "too", "too": "to", "than": "then",
    "then": "than", "your": "you're", "is": "are", "are": "is", "has": "have", "have": "has", "was": "were",
    "were": "was", "of": "off", "an": "a", "a": "an", "which": "wich", "where": "were", "does": "do", "do": "does",
}  # fmt: skip

# Headings of the Python documentation, as they stand there.
LAMBDAS = "Why do lambdas defined in a loop with different values all return the same result?"
UNBOUND = "Why am I getting an UnboundLocalError when the variable has a value?"
SCOPES = "What are the rules for local and global variables in Python?"
ORIGIN = "Why was Python created in the first place?"
BEGINNERS = "Is Python a good language for beginning programmers?"

CHAT = (
    (
        "python-lambdas-in-a-loop",
        LAMBDAS,
        ("python", "faq/programming", LAMBDAS, [1]),
        ("python", "faq/programming", LAMBDAS, [4, 5, 6, 7, 8]),
        "Please explain it and show me how to fix it.",
    ),
    (
        "python-two-names-one-list",
        "Why did changing list 'y' also change list 'x'?",
        ("python", "faq/programming", "Why did changing list 'y' also change list 'x'?", [1]),
        ("python", "faq/programming", "Why did changing list 'y' also change list 'x'?", [3, 4]),
        "I expected x to stay empty. Explain it in a few sentences.",
    ),
    (
        "python-unbound-local",
        UNBOUND,
        ("python", "faq/programming", UNBOUND, [4, 6]),
        ("python", "faq/programming", UNBOUND, [7, 8, 9]),
        "How should I change the function?",
    ),
    (
        "python-floats",
        "Why are floating-point calculations so inaccurate?",
        ("python", "faq/design", "Why are floating-point calculations so inaccurate?", [1]),
        ("python", "faq/design", "Why are floating-point calculations so inaccurate?", [3, 10]),
        "Is this a bug in Python?",
    ),
    (
        "python-tuples-and-lists",
        "Why are there separate tuple and list data types?",
        None,
        ("python", "faq/design", "Why are there separate tuple and list data types?", [0, 1, 2]),
        "I am learning Python and cannot decide which of the two to use. Please give me one example for each.",
    ),
    (
        "python-for-beginners",
        BEGINNERS,
        None,
        ("python", "faq/general", BEGINNERS, [1, 2]),
        "I teach a class of fifteen-year-olds who have never programmed. Tell me what speaks for it and against it.",
    ),
    (
        "python-origin",
        ORIGIN,
        None,
        ("python", "faq/general", ORIGIN, [1, 3, 4, 5]),
        "Tell me the story in a friendly tone, in at most two short paragraphs, and name the year it was published.",
    ),
    (
        "no-goto",
        "Why is there no goto?",
        None,
        ("python", "faq/design", "Why is there no goto?", [0]),
        "I come from an old BASIC where I used it all the time. What do I write in Python instead?",
    ),
    (
        "backup-plan",
        "I look after the computers of a small company: a few servers, a file server and about thirty desktops.",
        None,
        ("handbook", "sect.backup", [4, 5, 17]),
        "How would you organise the backups, and what would you not back up? Keep it short.",
    ),
    (
        "security-goals",
        "Our office wants to buy a firewall because a neighbour was hacked.",
        None,
        ("handbook", "security", [2, 3, 4, 5, 6]),
        "Which questions should we answer before we spend any money on security? Give me a list.",
    ),
)

SUMMARISING = (
    (
        "debian-welcome",
        ("handbook", "preface", [0, 1, 2, 3, 4]),
        "Debian runs a large part of the web's servers and much else, because it is flexible enough for any "
        "environment and is made by a diverse community that no single company controls.",
    ),
    (
        "commercial-or-community",
        ("handbook", "sect.why-debian", [0, 1, 3, 4, 5]),
        "A distribution must be supported for years; commercial ones release more often and depend on their company's "
        "success, while community ones release when ready and last as long as people support them.",
    ),
    (
        "security-extremes",
        ("handbook", "security", [11, 12, 13, 14]),
        "From doing nothing for a worthless old computer to storing data on metal plates in bunkers, a security policy "
        "is sound as long as it comes from reasoning about goals and constraints.",
    ),
    (
        "company-backups",
        ("handbook", "sect.backup", [4, 5, 8, 17]),
        "The company backs up its servers daily with rsync onto disks of a dedicated server, uses hard links to save "
        "space, and guards against fire with a separate room and weekly incremental DVDs.",
    ),
    (
        "package-survey",
        ("handbook", "sect.main-desktop-tools", [0, 1, 3]),
        "The popularity-contest package sends Debian an anonymous weekly list of installed packages, which helps "
        "decide what goes on the installation disks and helps users choose.",
    ),
    (
        "why-python",
        ("python", "tutorial/appetite", "Whetting Your Appetite", [0, 1, 2, 3, 4]),
        "Python suits tasks that are too much for shell scripts and too slow to write in C: it is simple to use yet a "
        "real language with structure, error checking and high-level data types.",
    ),
    (
        "history-of-python",
        ("python", "faq/general", ORIGIN, [1, 2, 3, 4, 5]),
        "Guido van Rossum, who had worked on ABC, wanted an extensible scripting language for the Amoeba system; he "
        "began Python at Christmas 1989 and published it in February 1991.",
    ),
    (
        "jonah-and-the-storm",
        ("bible", "jonah1:1-15"),
        "Jonah flees from God's order to go to Nineveh by taking a ship; when a storm threatens it, the lot falls on "
        "him and the sailors throw him into the sea, which becomes calm.",
    ),
)

FUNCTIONS = (
    ("textwrap", "shorten"),
    ("textwrap", "indent"),
    ("heapq", "nsmallest"),
    ("shlex", "quote"),
    ("string", "capwords"),
    ("colorsys", "rgb_to_hsv"),
    ("calendar", "monthrange"),
    ("statistics", "median"),
    ("statistics", "correlation"),
    ("fnmatch", "filter"),
    ("inspect", "cleandoc"),
    ("shutil", "copyfileobj"),
)

COPY_EDITING = (
    ("flexible-debian", ("handbook", "preface", [2, 3])),
    ("risk", ("handbook", "security", [0, 7])),
    ("hard-links", ("handbook", "sect.backup", [6])),
    ("mail-program", ("handbook", "sect.main-desktop-tools", [4])),
    ("testing-distribution", ("handbook", "sect.release-lifecycle", [16, 2])),
    ("automation", ("python", "tutorial/appetite", "Whetting Your Appetite", [0, 1])),
    ("lists-in-memory", ("python", "faq/design", "How are lists implemented in CPython?", [0, 1, 2])),
    ("local-variables", ("python", "faq/programming", SCOPES, [0, 1])),
)

LANGUAGES = {
    "en-US": "English", "fr-FR": "French", "de-DE": "German", "es-ES": "Spanish", "it-IT": "Italian",
    "pt-BR": "Brazilian Portuguese",
}  # fmt: skip

TRANSLATION = (
    ("security", 4, "fr-FR", "en-US"),
    ("sect.why-debian", 5, "fr-FR", "en-US"),
    ("short-remedial-course", 1, "de-DE", "en-US"),
    ("sect.release-lifecycle", 16, "de-DE", "en-US"),
    ("security", 0, "es-ES", "en-US"),
    ("sect.why-debian", 4, "it-IT", "en-US"),
    ("sect.why-debian", 7, "pt-BR", "en-US"),
    ("security", 6, "en-US", "fr-FR"),
    ("sect.release-lifecycle", 5, "en-US", "de-DE"),
    ("sect.why-debian", 8, "en-US", "es-ES"),
)

# Of several accepted answers the first stands in the passage and is the reference.
QUESTIONS = (
    (
        "web-servers",
        ("handbook", "preface", [0]),
        "What share of the web servers on the Internet run Debian?",
        ("10%", "10 percent", "10 per cent"),
    ),
    (
        "space",
        ("handbook", "preface", [0]),
        "For which station was Debian selected as the operating system?",
        "International Space Station",
    ),
    (
        "backup-command",
        ("handbook", "sect.backup", [5]),
        "Which command is used every day to back up the servers?",
        "rsync",
    ),
    (
        "tape-archive",
        ("handbook", "sect.backup", [19]),
        "What does the name of the tar command come from?",
        "Tape ARchive",
    ),
    ("hard-link-command", ("handbook", "sect.backup", [7]), "Which command creates a hard link?", "ln"),
    (
        "long-term-support",
        ("handbook", "sect.why-debian", [12]),
        "In which year did the Debian LTS project start?",
        "2014",
    ),
    (
        "survey-interval",
        ("handbook", "sect.main-desktop-tools", [0]),
        "How often is the survey script run?",
        ("weekly", "every week", "once a week"),
    ),
    (
        "name-of-python",
        ("python", "faq/general", "Why is it called Python?", [0]),
        "Which comedy series was the language named after?",
        ("Monty Python's Flying Circus", "Monty Python"),
    ),
    ("naomi", ("bible", "ruth1:1-5"), "What was the name of Elimelech's wife?", "Naomi"),
    (
        "years-in-moab",
        ("bible", "ruth1:1-5"),
        "How long did they dwell in the country of Moab?",
        ("about ten years", "ten years", "10 years"),
    ),
    ("ship-of-jonah", ("bible", "jonah1:1-4"), "To which city was the ship going that Jonah found?", "Tarshish"),
)
