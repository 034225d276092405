"""What `making.prompts` takes from where, and the words that were written for this project.

A place is ``("handbook", page, paragraph numbers)``, ``("python", page, heading, block numbers)`` or
``("bible", verses)``. The length of this file is that of its lists; there is no code in it.
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
INDENTATION = "Why does Python use indentation for grouping of statements?"
IMMUTABLE = "Why are Python strings immutable?"
SELF = "Why must 'self' be used explicitly in method definitions and calls?"
SWITCH = "Why isn't there a switch or case statement in Python?"
SORT = "Why doesn't list.sort() return the sorted list?"
DEFAULTS = "Why are default values shared between objects?"
SLOW = "My program is too slow. How do I speed it up?"
STRINGS = "What is the most efficient way to concatenate many strings together?"
RELOAD = "When I edit an imported module and reimport it, the changes don't show up.  Why does this happen?"
TERNARY = 'Is there an equivalent of C\'s "?:" ternary operator?'
INTERFACE = "How do you specify and enforce an interface spec in Python?"
MEMORY = "How does Python manage memory?"
IMPORTS = 'What are the "best practices" for using import in a module?'
RAW = "Why can't raw strings (r-strings) end with a backslash?"
NEWSGROUP = "Is there a newsgroup or mailing list devoted to Python?"
COLLECTION = "Why doesn't CPython use a more traditional garbage collection scheme?"
THREADS = "Can't you emulate threads in the interpreter instead of relying on an OS-specific thread implementation?"
COMPILED = "Can Python be compiled to machine code, C or some other language?"
FREED = "Why isn't all memory freed when CPython exits?"
DELETE = "My class defines __del__ but it is not called when I delete the object."
IDENTITY = "Why does the result of ``id()`` appear to be not unique?"
METHODS = (
    "Why does Python use methods for some functionality (e.g. list.index()) but functions for other (e.g. len(list))?"
)

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
    (
        "python-indentation",
        INDENTATION,
        None,
        ("python", "faq/design", INDENTATION, [0, 1, 4]),
        "I have written C for ten years and miss my braces. What do I gain, and what should I watch out for?",
    ),
    (
        "python-immutable-strings",
        IMMUTABLE,
        None,
        ("python", "faq/design", IMMUTABLE, [0, 1, 2]),
        "Please answer for somebody who has only used languages in which a string can be changed in place.",
    ),
    (
        "python-explicit-self",
        SELF,
        None,
        ("python", "faq/design", SELF, [0, 1]),
        "In Java I never have to write it. Give me the reasons and a small class as an example.",
    ),
    (
        "python-switch",
        SWITCH,
        None,
        ("python", "faq/design", SWITCH, [0, 1, 2, 3]),
        "I have about twenty commands that a user can type, and a function for each. How would you write that?",
    ),
    (
        "python-sort-returns-nothing",
        "I wrote names = names.sort() and now names is None.",
        None,
        ("python", "faq/design", SORT, [0, 1, 2]),
        "What happened to my list, why was it made this way, and what should I have written?",
    ),
    (
        "python-default-arguments",
        "My function has the signature def remember(key, store={}), and it seems to keep things between calls.",
        None,
        ("python", "faq/programming", DEFAULTS, [3, 4, 5, 6, 7, 8]),
        "Where do the old entries come from, and how do I write it so that every call starts empty?",
    ),
    (
        "python-slow-program",
        SLOW,
        None,
        ("python", "faq/programming", SLOW, [3, 7]),
        "It reads a large file, counts words and takes four minutes. Tell me what to try, in order.",
    ),
    (
        "python-joining-strings",
        STRINGS,
        None,
        ("python", "faq/programming", STRINGS, [0, 1, 2]),
        "I build a report of a hundred thousand lines with += and it gets slower and slower.",
    ),
    (
        "python-reload",
        "I changed a function in my module, imported the module again in the same session, and still get the old one.",
        None,
        ("python", "faq/programming", RELOAD, [0, 1]),
        "Do I have to restart Python every time? Explain it in two or three sentences.",
    ),
    (
        "python-ternary",
        TERNARY,
        None,
        ("python", "faq/programming", TERNARY, [0, 1, 2, 5]),
        "Show me how to set a variable to the smaller of two values in one line, and when I should rather not do it.",
    ),
    (
        "silent-computer",
        "Our old office computer does not start any more: its disk makes no noise, the network socket shows no light.",
        None,
        ("handbook", "sect.computer-layers", [4, 5]),
        "What can I find out by looking and listening before I call somebody?",
    ),
    (
        "hijacked-server",
        "I think that somebody broke into our web server last night. It stands in the next room and still runs.",
        None,
        ("handbook", "sect.dealing-with-compromised-machine", [9, 16]),
        "What should I do first, and may I simply delete the strange files and carry on?",
    ),
    (
        "daemons",
        "I looked at the list of processes on my computer and half of them are called daemons.",
        None,
        ("handbook", "sect.user-space", [5, 6]),
        "Is that something bad? Who started them, and what are they doing there?",
    ),
    (
        "tcp-or-udp",
        "I want to write a small network game in which the players' positions are sent thirty times a second.",
        None,
        ("handbook", "network-infrastructure", [3, 4]),
        "Should I use TCP or UDP? Tell me what each of them promises.",
    ),
    (
        "desktop-for-an-old-laptop",
        "I have a laptop from 2009 with very little memory and would like to put Debian with a desktop on it.",
        None,
        ("handbook", "sect.graphical-desktops", [10, 11]),
        "Which desktop would you choose, and what would I have to do without?",
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
    (
        "founding-of-debian",
        ("handbook", "the-debian-project", [3, 8]),
        "Ian Murdock created Debian in 1993 as a careful, openly developed and non-commercial distribution; it has "
        "grown to nine architectures and more than 31,000 source packages.",
    ),
    (
        "meta-distribution",
        ("handbook", "the-debian-project", [9, 10, 11]),
        "Because Debian has become so large, smaller distributions for special groups of users are cut out of it with "
        "Debian's own tools, and all of them stay compatible and follow its releases.",
    ),
    (
        "social-contract",
        ("handbook", "sect.foundation-documents", [2, 5, 6]),
        "Debian's social contract states its commitments to users; a change of wording in 2004 extended freedom from "
        "software to everything else, which removed documentation and made firmware a problem.",
    ),
    (
        "non-free-section",
        ("handbook", "sect.foundation-documents", [16, 17, 18, 20]),
        "Debian distributes some non-free software apart from its main section; critics see this as a betrayal of free "
        "software, supporters as a way to win authors over, and the FSF refuses to recommend Debian because of it.",
    ),
    (
        "three-licences",
        ("handbook", "sect.foundation-documents", [36, 37, 38, 39]),
        "All three licences are free by Debian's guidelines: the GPL binds derived works too, the BSD license allows "
        "nearly everything, and the Artistic License allows proprietary use if changes are published.",
    ),
    (
        "before-a-migration",
        ("handbook", "sect.how-to-migrate", [0, 1, 2, 7]),
        "A migration must be planned: find out which services each server really runs, tell the users and let them "
        "try the new programs beforehand, and back everything up.",
    ),
    (
        "starting-a-computer",
        ("handbook", "sect.computer-layers", [8, 10]),
        "When a computer is switched on, the BIOS or UEFI looks for a bootloader on disk and starts it; the bootloader "
        "(often GRUB) finds an operating system's kernel, loads it and runs it.",
    ),
    (
        "multitasking",
        ("handbook", "sect.kernel-role-and-tasks", [11, 12]),
        "The kernel gives each process short slices of time in turn, so that many seem to run at once; how long and "
        "how often depends on priorities, and each processor core really runs one process at a time.",
    ),
    (
        "a-pipeline",
        ("handbook", "sect.user-space", [12, 13, 14, 15]),
        "For the command ls | sort the shell makes a pipe and clones itself twice; one clone becomes ls and writes "
        "into the pipe, the other becomes sort and reads from it, and the shell waits for both.",
    ),
    (
        "iceweasel",
        ("handbook", "sect.web-browsers", [5, 6, 8]),
        "Debian once shipped Firefox as Iceweasel because the trademark required logos that were not free; now that "
        "they are free and Mozilla accepts Debian's changes, the official name is back.",
    ),
    (
        "rival-desktops",
        ("handbook", "sect.graphical-desktops", [0, 1, 2]),
        "GNOME and Plasma dominate free desktops; GNOME was begun because Plasma's toolkit Qt was not free, and though "
        "Qt now is, both continue side by side and agree on common standards.",
    ),
    (
        "ubuntu-and-debian",
        ("handbook", "sect.ubuntu", [0, 1, 5]),
        "Canonical founded Ubuntu with Debian developers to make a regularly released distribution for the public with "
        "fewer packages; relations with Debian were tense at first but have improved.",
    ),
    (
        "testing-instead-of-interfaces",
        ("python", "faq/design", INTERFACE, [0, 2, 4, 5]),
        "What other languages ensure by interface specifications, Python programs can have from disciplined testing, "
        "which can even check properties that a specification cannot.",
    ),
    (
        "daniel-and-the-lions",
        ("bible", "daniel6:10-17"),
        "Daniel keeps praying to his God against the king's decree; his accusers hold the king to the law, and against "
        "his will he has Daniel thrown into the lions' den, which is sealed.",
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
    ("heapq", "merge"),
    ("textwrap", "dedent"),
    ("statistics", "quantiles"),
    ("statistics", "multimode"),
    ("difflib", "get_close_matches"),
    ("ftplib", "parse227"),
    ("getpass", "getuser"),
    ("cgi", "parse_header"),
    ("xml.sax.saxutils", "quoteattr"),
    ("shutil", "which"),
    ("inspect", "getmodulename"),
    ("difflib", "restore"),
    ("encodings", "normalize_encoding"),
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
    ("released-when-ready", ("handbook", "the-debian-project", [18, 19])),
    ("upstream", ("handbook", "sect.foundation-documents", [10])),
    ("problems-in-the-open", ("handbook", "sect.foundation-documents", [12, 14])),
    ("blocks-and-quotas", ("handbook", "sect.quotas", [5, 6])),
    ("special-files", ("handbook", "sect.creating-accounts", [5])),
    ("following-the-project", ("handbook", "sect.follow-debian-news", [0, 5])),
    ("cost-of-ownership", ("handbook", "sect.why-gnu-linux", [4])),
    ("layers-of-a-computer", ("handbook", "sect.computer-layers", [0, 1])),
    ("mount-points", ("handbook", "sect.kernel-role-and-tasks", [6])),
    ("pipes", ("handbook", "sect.user-space", [9, 10])),
    ("login-shells", ("handbook", "sect.shell-environment", [0, 2, 5])),
    ("order-of-imports", ("python", "faq/programming", IMPORTS, [1, 6])),
    ("raw-strings", ("python", "faq/design", RAW, [0, 1])),
    ("classes", ("python", "faq/programming", "What is a class?", [0, 1])),
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
    ("case-study", 2, "fr-FR", "en-US"),
    ("sect.user-space", 4, "de-DE", "en-US"),
    ("sect.kernel-role-and-tasks", 4, "es-ES", "en-US"),
    ("sect.kernel-role-and-tasks", 10, "it-IT", "en-US"),
    ("sect.computer-layers", 7, "pt-BR", "en-US"),
    ("sect.creating-accounts", 3, "fr-FR", "en-US"),
    ("sect.how-to-migrate", 10, "de-DE", "en-US"),
    ("sect.user-space", 16, "es-ES", "en-US"),
    ("sect.quotas", 10, "en-US", "fr-FR"),
    ("sect.role-of-distributions", 0, "en-US", "de-DE"),
    ("network-infrastructure", 2, "en-US", "it-IT"),
    ("sect.creating-accounts", 4, "en-US", "pt-BR"),
    ("sect.user-space", 8, "en-US", "es-ES"),
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
    (
        "name-of-debian",
        ("handbook", "the-debian-project", [1]),
        "Whose first name is the first part of the name Debian?",
        "Debra",
    ),
    (
        "second-leader",
        ("handbook", "sect.foundation-documents", [41]),
        "Who led the Debian project after its founder?",
        ("Bruce Perens", "Perens"),
    ),
    (
        "amending-the-documents",
        ("handbook", "sect.foundation-documents", [1]),
        "What majority is required to amend the Foundation Documents?",
        ("three-quarter", "three-quarters", "three quarters", "75%", "75 percent", "75 per cent"),
    ),
    (
        "soft-limit",
        ("handbook", "sect.quotas", [7]),
        "Which command warns users who exceed their soft limit?",
        "warnquota",
    ),
    (
        "workers-in-montpellier",
        ("handbook", "case-study", [2]),
        "How many people work at the smaller site?",
        ("50", "fifty"),
    ),
    (
        "firefox-releases",
        ("handbook", "sect.web-browsers", [3]),
        "How often are new releases of Firefox published?",
        ("every six to eight weeks", "six to eight weeks", "6 to 8 weeks", "6-8 weeks", "six-eight weeks"),
    ),
    (
        "port-25",
        ("handbook", "network-infrastructure", [6]),
        "What generally uses TCP port 25?",
        ("email server", "email servers", "e-mail server", "mail server", "email", "e-mail"),
    ),
    (
        "toolkit-of-xfce",
        ("handbook", "sect.graphical-desktops", [10]),
        "On which toolkit is Xfce based?",
        ("GTK+", "GTK"),
    ),
    (
        "size-of-knoppix",
        ("handbook", "sect.knoppix", [0]),
        "How much software does the DVD-ROM version hold?",
        ("4.5 GB", "4.5GB", "4.5 gigabytes"),
    ),
    (
        "announcements-per-day",
        ("python", "faq/general", NEWSGROUP, [0, 1]),
        "About how many postings does the announcements newsgroup receive in a day?",
        ("five", "5"),
    ),
    (
        "copyright-of-python",
        ("python", "faq/general", "What is the Python Software Foundation?", [0]),
        "From which version on does the foundation hold the copyright on Python?",
        "2.1",
    ),
    ("town-of-boaz", ("bible", "ruth2:1-6"), "From which town did Boaz come to the reapers?", "Bethlehem"),
    (
        "guardian-of-esther",
        ("bible", "esther2:5-9"),
        "Who took Esther for his own daughter when her parents were dead?",
        "Mordecai",
    ),
    (
        "waterpots-of-cana",
        ("bible", "john2:1-8"),
        "How many waterpots of stone were set there?",
        ("six", "6"),
    ),
)

# A question, its accepted answers, the places that hold the answer, and places that do not.
RETRIEVAL = (
    (
        "company-of-murdock",
        "Which company did Debian's first leader create afterwards?",
        "Progeny",
        [("handbook", "the-debian-project", [6])],
        [
            ("handbook", "the-debian-project", [5]),
            ("handbook", "sect.foundation-documents", [42]),
            ("handbook", "sect.ubuntu", [0]),
            ("handbook", "the-debian-project", [20]),
        ],
    ),
    (
        "money-and-hardware",
        "Which association manages the finances and the hardware of the Debian project?",
        ("Software in the Public Interest", "SPI"),
        [("handbook", "the-debian-project", [22])],
        [
            ("handbook", "sect.foundation-documents", [41]),
            ("handbook", "the-debian-project", [16]),
            ("handbook", "sect.follow-debian-news", [3]),
            ("handbook", "sect.why-gnu-linux", [5]),
        ],
    ),
    (
        "installation-images",
        "Who leads the team that creates the images of the installation media?",
        ("Steve McIntyre", "McIntyre"),
        [("handbook", "the-debian-project", [12])],
        [
            ("handbook", "the-debian-project", [17]),
            ("handbook", "the-debian-project", [13]),
            ("handbook", "sect.role-of-distributions", [2]),
            ("handbook", "sect.role-of-distributions", [3]),
            ("handbook", "sect.knoppix", [1]),
        ],
    ),
    (
        "number-of-packages",
        "How many source packages does Debian have?",
        ("31,000", "31000"),
        [("handbook", "the-debian-project", [8]), ("handbook", "sect.role-of-distributions", [4])],
        [
            ("handbook", "sect.role-of-distributions", [5]),
            ("handbook", "sect.ubuntu", [1]),
            ("handbook", "the-debian-project", [15]),
        ],
    ),
    (
        "services-from-outside",
        "With which tool can I see the services of another machine without logging in to it?",
        "nmap",
        [("handbook", "sect.how-to-migrate", [3])],
        [
            ("handbook", "sect.how-to-migrate", [4]),
            ("handbook", "sect.how-to-migrate", [6]),
            ("handbook", "sect.how-to-migrate", [9]),
            ("handbook", "sect.how-to-migrate", [8]),
        ],
    ),
    (
        "changed-files",
        "Which package compares installed files with their MD5 sums?",
        "debsums",
        [("handbook", "sect.how-to-migrate", [20])],
        [
            ("handbook", "sect.how-to-migrate", [14]),
            ("handbook", "sect.how-to-migrate", [16]),
            ("handbook", "sect.how-to-migrate", [17]),
            ("handbook", "sect.how-to-migrate", [18]),
        ],
    ),
    (
        "letters-of-uefi",
        "What does the letter E in the name UEFI stand for?",
        "Extensible",
        [("handbook", "sect.computer-layers", [12])],
        [
            ("handbook", "sect.computer-layers", [9]),
            ("handbook", "sect.computer-layers", [11]),
            ("handbook", "sect.computer-layers", [13]),
            ("handbook", "sect.computer-layers", [14]),
        ],
    ),
    (
        "pci-devices",
        "Which command lists the PCI devices of a machine?",
        "lspci",
        [("handbook", "sect.kernel-role-and-tasks", [1])],
        [
            ("handbook", "sect.kernel-role-and-tasks", [0]),
            ("handbook", "sect.kernel-role-and-tasks", [3]),
            ("handbook", "sect.kernel-role-and-tasks", [8]),
            ("handbook", "sect.computer-layers", [6]),
        ],
    ),
    (
        "formatting",
        "Which filesystem was used by DOS and can be read under Debian too?",
        "vfat",
        [("handbook", "sect.kernel-role-and-tasks", [7])],
        [
            ("handbook", "sect.kernel-role-and-tasks", [5]),
            ("handbook", "sect.kernel-role-and-tasks", [9]),
            ("handbook", "sect.quotas", [8]),
            ("handbook", "sect.kernel-role-and-tasks", [13]),
        ],
    ),
    (
        "quota-of-new-users",
        "Which variable names the user whose quota is given to every new user?",
        "QUOTAUSER",
        [("handbook", "sect.quotas", [11])],
        [
            ("handbook", "sect.quotas", [1]),
            ("handbook", "sect.quotas", [9]),
            ("handbook", "sect.creating-accounts", [1]),
            ("handbook", "sect.creating-accounts", [6]),
        ],
    ),
    (
        "important-announcements",
        "About how many messages a year does the list with the most important news carry?",
        ("dozen", "twelve", "12"),
        [("handbook", "sect.follow-debian-news", [1])],
        [
            ("handbook", "sect.follow-debian-news", [2]),
            ("handbook", "sect.follow-debian-news", [4]),
            ("handbook", "sect.follow-debian-news", [6]),
            ("handbook", "sect.follow-debian-news", [7]),
        ],
    ),
    (
        "long-term-ubuntu",
        "For how many years are the long-term releases of Ubuntu maintained?",
        ("5", "five"),
        [("handbook", "sect.ubuntu", [2]), ("handbook", "sect.ubuntu", [3])],
        [
            ("handbook", "sect.web-browsers", [4]),
            ("handbook", "sect.ubuntu", [4]),
            ("handbook", "sect.knoppix", [2]),
        ],
    ),
    (
        "engine-of-konqueror",
        "Which rendering engine is used by the web browser Konqueror?",
        "KHTML",
        [("handbook", "sect.web-browsers", [1])],
        [
            ("handbook", "sect.web-browsers", [0]),
            ("handbook", "sect.web-browsers", [2]),
            ("handbook", "sect.web-browsers", [9]),
            ("handbook", "sect.web-browsers", [10]),
        ],
    ),
    (
        "settings-of-gnome",
        "In which database does GNOME keep the settings of its applications?",
        "DConf",
        [("handbook", "sect.graphical-desktops", [6])],
        [
            ("handbook", "sect.graphical-desktops", [5]),
            ("handbook", "sect.graphical-desktops", [8]),
            ("handbook", "sect.graphical-desktops", [12]),
            ("handbook", "sect.graphical-desktops", [13]),
        ],
    ),
    (
        "ports-of-the-gateway",
        "Above which number are the ports that a gateway usually uses for masquerading?",
        ("60000", "60,000"),
        [("handbook", "network-infrastructure", [7])],
        [
            ("handbook", "network-infrastructure", [5]),
            ("handbook", "network-infrastructure", [1]),
            ("handbook", "network-infrastructure", [10]),
            ("handbook", "network-infrastructure", [9]),
        ],
    ),
    (
        "missing-tools",
        "Which program can still unpack a package when even the system libraries are gone?",
        "busybox",
        [("handbook", "packaging-system", [3])],
        [
            ("handbook", "packaging-system", [2]),
            ("handbook", "packaging-system", [6]),
            ("handbook", "packaging-system", [11]),
            ("handbook", "packaging-system", [18]),
        ],
    ),
    (
        "mounting-an-image",
        "With which options should the disk images of an attacked machine be mounted?",
        "ro,nodev,noexec,noatime",
        [("handbook", "sect.dealing-with-compromised-machine", [18])],
        [
            ("handbook", "sect.dealing-with-compromised-machine", [11]),
            ("handbook", "sect.dealing-with-compromised-machine", [12]),
            ("handbook", "sect.dealing-with-compromised-machine", [15]),
            ("handbook", "sect.power-management", [1]),
        ],
    ),
    (
        "tools-for-analysis",
        "Which package provides many tools to analyse a filesystem after an attack?",
        "sleuthkit",
        [("handbook", "sect.dealing-with-compromised-machine", [25])],
        [
            ("handbook", "sect.dealing-with-compromised-machine", [2]),
            ("handbook", "sect.dealing-with-compromised-machine", [14]),
            ("handbook", "sect.dealing-with-compromised-machine", [17]),
            ("handbook", "sect.dealing-with-compromised-machine", [33]),
        ],
    ),
    (
        "releases-of-python",
        "How many months apart are the major releases of Python from version 3.9 on?",
        ("12", "twelve"),
        [("python", "faq/general", "How stable is Python?", [0])],
        [
            ("python", "faq/general", "How stable is Python?", [1]),
            ("python", "faq/general", "How does the Python version numbering scheme work?", [3]),
            ("python", "faq/general", "How does the Python version numbering scheme work?", [7]),
            ("python", "faq/general", "Are there copyright restrictions on the use of Python?", [0]),
            ("python", "faq/general", "Is it reasonable to propose incompatible changes to Python?", [0]),
        ],
    ),
    (
        "python-to-c-plus-plus",
        "Which compiler turns Python into C++ code?",
        "Nuitka",
        [("python", "faq/design", COMPILED, [0])],
        [
            ("python", "faq/design", COLLECTION, [0]),
            ("python", "faq/design", COLLECTION, [1]),
            ("python", "faq/design", THREADS, [0]),
            ("python", "faq/programming", SLOW, [6]),
            ("python", "faq/design", MEMORY, [1]),
        ],
    ),
    (
        "deleting-at-the-end",
        "Which module runs a function at the end of the program that can force things to be deleted?",
        "atexit",
        [("python", "faq/design", FREED, [1])],
        [
            ("python", "faq/design", FREED, [0]),
            ("python", "faq/design", MEMORY, [0]),
            ("python", "faq/programming", DELETE, [2]),
            ("python", "faq/programming", DELETE, [3]),
            ("python", "faq/programming", IDENTITY, [0]),
        ],
    ),
    (
        "origin-of-self",
        "From which programming language was the explicit self borrowed?",
        ("Modula-3", "Modula 3"),
        [("python", "faq/design", SELF, [0])],
        [
            ("python", "faq/design", SELF, [2]),
            ("python", "faq/programming", "What is self?", [0]),
            ("python", "faq/design", METHODS, [1]),
            ("python", "faq/design", METHODS, [2]),
            ("python", "faq/design", "Why can't lambda expressions contain statements?", [0]),
        ],
    ),
    (
        "days-of-nineveh",
        "In how many days did Jonah say that Nineveh would be overthrown?",
        ("forty", "40"),
        [("bible", "jonah3:1-6")],
        [
            ("bible", "jonah2:1-6"),
            ("bible", "daniel1:1-5"),
            ("bible", "ruth4:1-4"),
            ("bible", "esther6:1-5"),
        ],
    ),
)

# A question and the calculation that answers it.
MATHEMATICS = (
    (
        "eggs-at-the-market",
        "A farm's hens lay 23 eggs a day. The family eats 4 of them every morning and gives 3 to the neighbours. The "
        "rest is sold at the market in boxes of 8 for 3 dollars a box. How many dollars does the farm earn in a day?",
        "(23 - 4 - 3) / 8 * 3",
    ),
    (
        "school-trip",
        "On a school trip there are 5 buses with 42 seats each. 187 pupils and 11 teachers come along, and everybody "
        "has a seat. How many seats stay empty?",
        "5 * 42 - 187 - 11",
    ),
    (
        "painting-a-fence",
        "Two sisters paint a fence of 96 boards. The older one paints 7 boards an hour and the younger one 5. They "
        "work together from the start until the fence is finished. How many hours do they need?",
        "96 / (7 + 5)",
    ),
    (
        "library-fine",
        "A library asks for 15 cents for each day that a book is late. Omar returned three books, each 6 days late, "
        "and a fourth one that was 10 days late. How many cents does he have to pay?",
        "(3 * 6 + 10) * 15",
    ),
    (
        "half-marathon",
        "Lena trains for a half marathon. In the first week she runs 12 kilometres, and in every week after that 3 "
        "kilometres more than in the week before. How many kilometres has she run altogether after five weeks?",
        "12 + 15 + 18 + 21 + 24",
    ),
    (
        "discounted-coat",
        "A coat costs 180 dollars. In January its price is lowered by 25 percent, and in February the lower price is "
        "lowered by another 20 percent. What does the coat cost in February, in dollars?",
        "180 * 75 / 100 * 80 / 100",
    ),
    (
        "bakery-flour",
        "A bakery uses 350 grams of flour for a loaf and 60 grams for a roll. One morning it bakes 40 loaves and 150 "
        "rolls. How many kilograms of flour does it use?",
        "(350 * 40 + 60 * 150) / 1000",
    ),
    (
        "shared-rent",
        "Four friends share a flat. The rent is 1,240 euros a month, and electricity and water come to 180 euros. One "
        "friend has the small room and pays 100 euros less than each of the others. How much does that friend pay?",
        "(1240 + 180 - 3 * 100) / 4",
    ),
    (
        "rows-of-chairs",
        "For a concert, 18 rows of 24 chairs are set up. One third of the chairs is taken by members of the choir, and "
        "half of the others are sold beforehand. How many chairs are left for people who come in the evening?",
        "18 * 24 * 2 / 3 / 2",
    ),
    (
        "two-trains",
        "Two trains leave the same station at noon in opposite directions. One travels at 85 kilometres an hour and "
        "the other at 110. How many kilometres are they apart at three o'clock?",
        "(85 + 110) * 3",
    ),
    (
        "stamp-collection",
        "Ravi has three times as many stamps as Clara. When he gives her 35 of his stamps, both have the same number. "
        "How many stamps did Ravi have at first?",
        "35 * 3",
    ),
    (
        "candle",
        "A candle is 27 centimetres tall. It burns down 2 centimetres in the first hour and 1.5 centimetres in every "
        "hour after that. How many centimetres are left after seven hours?",
        "27 - 2 - 6 * 1.5",
    ),
    (
        "mean-of-marks",
        "Sofia has written four tests and scored 71, 84, 90 and 78 points. How many points does she need in the fifth "
        "test so that the mean of all five is 82?",
        "5 * 82 - 71 - 84 - 90 - 78",
    ),
    (
        "swimming-pool",
        "A swimming pool is 25 metres long, 10 metres wide and 2 metres deep everywhere. A pump moves 40 cubic metres "
        "of water an hour. How many hours and a fraction does it take to empty the full pool, as a decimal number?",
        "25 * 10 * 2 / 40",
    ),
    (
        "coins-in-a-jar",
        "There are 60 coins in a jar, all of them of 10 or of 50 cents. Together they are worth 18 euros. How many of "
        "them are 50-cent coins?",
        "(1800 - 60 * 10) / 40",
    ),
    (
        "ages-of-brothers",
        "Marco is 8 years older than his brother Luca. In 4 years Marco will be twice as old as Luca is then. How old "
        "is Marco today?",
        "2 * 8 - 4",
    ),
    (
        "handshakes",
        "At a meeting there are 9 people, and each of them shakes hands once with each of the others. How many "
        "handshakes are there in all?",
        "9 * 8 / 2",
    ),
    (
        "photo-album",
        "Ada has 214 photographs. She puts 6 on each page of an album and has already filled 21 pages. How many more "
        "pages does she need for the photographs that are left, if the last page need not be full?",
        "(214 - 21 * 6 + 2) / 6",
    ),
    (
        "fuel",
        "A car needs 6.5 litres of fuel for 100 kilometres. Fuel costs 1.80 euros a litre. How many euros does the "
        "fuel for a journey of 400 kilometres cost?",
        "6.5 * 4 * 1.8",
    ),
    (
        "orchard",
        "An orchard has 14 rows with 16 trees each. A storm uproots an eighth of the trees, and in spring 40 young "
        "trees are planted. How many trees does the orchard have then?",
        "14 * 16 * 7 / 8 + 40",
    ),
    (
        "night-shift",
        "A nurse starts work at 9:40 in the evening and finishes at 6:10 the next morning. She has one break of 45 "
        "minutes. How many minutes does she work?",
        "8 * 60 + 30 - 45",
    ),
    (
        "mixing-juice",
        "To make a drink, 2 parts of syrup are mixed with 7 parts of water. How many millilitres of syrup are needed "
        "for 4.5 litres of the drink?",
        "4500 / 9 * 2",
    ),
    (
        "stairs",
        "A tower has 312 steps. Mia climbs a third of them and rests, then climbs 75 more and rests again. How many "
        "steps does she still have to climb?",
        "312 - 312 / 3 - 75",
    ),
    (
        "profit-of-a-stall",
        "For a stall at the school fair the class buys 12 bottles of lemonade at 1.50 euros and 90 paper cups at 5 "
        "cents. Each bottle fills 7 cups, and every cup is sold for 80 cents. How many euros of profit are made?",
        "12 * 7 * 0.8 - 12 * 1.5 - 90 * 0.05",
    ),
)
