"""What the training prompts are made of: where texts come from, how they are asked about, and what was written.

None of it is used by the evaluation prompts: their pages, books and modules are kept out of these lists, and the
requests are worded otherwise.
"""

SEED = 20_240

# Pages of the handbook that the evaluation prompts take from, or may come to take from.
EVALUATION_PAGES = frozenset((
    "case-study", "conclusion", "existing-setup", "foreword", "index", "network-infrastructure", "packaging-system",
    "preface", "sect.acknowledgments", "sect.backup", "sect.computer-layers", "sect.creating-accounts",
    "sect.dealing-with-compromised-machine", "sect.dhcp", "sect.filesystem-hierarchy", "sect.follow-debian-news",
    "sect.foundation-documents", "sect.future-of-debian", "sect.graphical-desktops", "sect.how-to-migrate",
    "sect.kernel-role-and-tasks", "sect.knoppix", "sect.main-desktop-tools", "sect.master-plan",
    "sect.office-suites", "sect.other-security-considerations", "sect.power-management", "sect.quotas",
    "sect.release-lifecycle", "sect.role-of-distributions", "sect.selected-approach", "sect.shell-environment",
    "sect.task-scheduling-cron-atd", "sect.ubuntu", "sect.user-space", "sect.web-browsers",
    "sect.who-is-this-book-for", "sect.why-debian", "sect.why-debian-stable", "sect.why-gnu-linux", "security",
    "short-remedial-course", "the-debian-project", "workstation",
))  # fmt: skip

# Of the Python documentation: the evaluation takes from the FAQ and the tutorial.
PROSE = (
    "howto/argparse", "howto/curses", "howto/descriptor", "howto/enum", "howto/functional", "howto/ipaddress",
    "howto/logging", "howto/logging-cookbook", "howto/pyporting", "howto/regex", "howto/sockets", "howto/sorting",
    "howto/unicode", "howto/urllib2", "reference/datamodel", "reference/executionmodel", "reference/import",
    "using/unix", "using/windows", "extending/extending", "library/asyncio-dev", "library/multiprocessing",
    "library/threading", "library/unittest", "library/decimal", "library/sqlite3", "library/logging",
)  # fmt: skip

REFERENCE = (
    "library/asyncio-task", "library/bisect", "library/builtins", "library/contextlib", "library/copy",
    "library/csv", "library/functions", "library/functools", "library/glob", "library/itertools", "library/json",
    "library/math", "library/os", "library/os.path", "library/pickle", "library/random", "library/re",
    "library/subprocess", "library/tempfile", "library/time", "library/timeit", "library/traceback",
    "library/urllib.parse", "library/warnings", "library/zipfile", "library/operator", "library/platform",
)  # fmt: skip

VERSES = (
    "judges6:11-18", "judges7:1-7", "judges16:4-9", "1samuel3:1-9", "1samuel16:6-13", "1samuel17:4-11",
    "1samuel17:38-45", "2samuel12:1-7", "1kings3:16-22", "1kings17:8-16", "1kings18:30-39", "2kings5:1-8",
    "2kings5:9-15", "exodus2:1-10", "exodus3:1-8", "exodus16:11-18", "numbers22:22-30", "joshua2:1-8",
    "joshua6:1-8", "job1:13-21", "luke10:30-37", "luke15:11-20", "luke19:1-9", "acts12:5-11", "acts27:14-22",
)  # fmt: skip

# Modules of the standard library; the evaluation's functions are in others.
MODULES = (
    "aifc", "argparse", "ast", "base64", "bdb", "bisect", "cProfile", "code", "compileall", "contextlib",
    "copy", "csv", "dataclasses", "dis", "doctest", "email.utils", "filecmp", "fractions", "functools",
    "getopt", "gettext", "glob", "gzip", "html", "imghdr", "ipaddress", "json", "linecache",
    "locale", "logging", "mimetypes", "nturl2path", "opcode", "pdb", "pickle", "pickletools",
    "pkgutil", "platform", "plistlib", "pprint", "profile", "pyclbr", "pydoc", "quopri", "re", "reprlib",
    "secrets", "smtplib", "sndhdr", "socket", "ssl", "subprocess", "symtable", "sysconfig",
    "tarfile", "tempfile", "timeit", "token", "tokenize", "trace", "traceback", "types", "typing",
    "unittest.util", "urllib.parse", "urllib.request", "uu", "uuid", "warnings", "webbrowser", "zipapp",
    "zipfile",
)  # fmt: skip

SUMMARISE = (
    "Give me the main point of this text in a single sentence.",
    "Write a summary of at most three sentences.",
    "Sum up the passage below for somebody in a hurry.",
    "What does this text say? Answer in two short sentences.",
    "List the key points of the following text as three bullet points.",
    "Shorten this text to about a third of its length, keeping the facts.",
    "Please write a short abstract of the text below.",
    "TL;DR of the following, please.",
)

EDIT = (
    "Please fix the mistakes in this text and give me back the whole of it.",
    "Proofread this paragraph. Return only the corrected version.",
    "There are typing errors in the text below. Write it again without them.",
    "Repair spelling and grammar, keep every other word as it is:",
    "My colleague wrote this in a hurry. Clean it up without rewriting it.",
    "Copy the following text exactly, but with its errors corrected.",
)

TRANSLATE = (
    "Please put this {start} text into {goal}.",
    "What is this in {goal}?",
    "Translate from {start} to {goal}:",
    "I do not read {start}. What does the text below say in {goal}?",
    "{goal} translation, please, nothing else:",
)

ASK = (
    "What is {term}?",
    "What is {term} used for?",
    "What does the text say about {term}?",
    "When would somebody need {term}?",
    "What should an administrator know about {term}?",
    "How does {term} come into this?",
)

ASK_FUNCTION = (
    "What does {term} do?",
    "What does {term} return?",
    "When would I call {term}?",
    "Which arguments of {term} are described, and what do they mean?",
)

ASK_STORY = (
    "Who takes part in this story, and what do they do?",
    "What happens in this passage?",
    "Why does this story go the way it does?",
    "What is said here, and by whom?",
    "How does the passage end?",
)

ANSWER = (
    "Use only the text.",
    "Answer briefly, from the text.",
    "Quote the words that say so.",
    "Reply in one sentence.",
)

EXPLAIN = (
    "I read this in a manual and did not understand it. Can you explain it in plain words?",
    "Explain the following to somebody who starts in this job tomorrow.",
    "What would go wrong if I ignored this advice?",
    "Turn this into a short checklist.",
    "Write three questions that a teacher could ask about this paragraph.",
    "Rewrite this in a friendlier tone.",
    "Is there anything in this that a beginner can skip?",
    "Give me an example of what is meant here.",
)

CONTEXT = (
    "Here are some extracts. Use the ones that help.",
    "Some search results:",
    "Notes that may or may not be useful:",
    "Answer from these documents, and name the one you used.",
)

# Written for this project.
CHAT = (
    "What is a good way to learn touch typing as an adult?",
    "Write a short poem about a lighthouse in winter.",
    "Suggest five names for a small bakery that sells only rye bread.",
    "Explain to a ten-year-old why the sky is blue.",
    "I have eggs, rice and spinach. What can I cook in twenty minutes?",
    "Write an email to my landlord saying that the heating has been broken since Monday.",
    "What are the differences between a virus and a bacterium?",
    "Give me three arguments for and three against a four-day working week.",
    "How do I convince my grandfather to use a hearing aid?",
    "Describe a medieval market square through the eyes of a pickpocket.",
    "How does a bicycle stay upright?",
    "Make a packing list for a weekend hike in the mountains in May.",
    "What is the difference between weather and climate?",
    "Tell me a joke about mathematicians and explain why it is funny.",
    "Draft a friendly reminder to a client who has not paid an invoice from March.",
    "Which questions should I ask when I look at a flat to rent?",
    "Explain what an API is to a person who has never programmed.",
    "Plan a three-day trip to Lisbon for two people who like architecture.",
    "How can I sleep better when it is hot?",
    "Write the opening paragraph of a detective story set on a ferry.",
    "What happens to a letter between the postbox and the door?",
    "Give me a recipe for lentil soup with exact quantities.",
    "Why do leaves change colour in autumn?",
    "How do I politely decline a wedding invitation?",
    "Explain compound interest with an example.",
    "What should I look for when buying a used car?",
    "Compare tea and coffee in a table with four rows.",
    "Write a dialogue between a cat and a vacuum cleaner.",
    "I want to run ten kilometres in three months. Make me a weekly plan.",
    "What is the purpose of a constitution?",
    "Give me ten words that rhyme with 'light'.",
    "How do noise-cancelling headphones work?",
    "My houseplant has yellow leaves. What could be wrong?",
    "Describe the water cycle in five steps.",
    "Write a product description for a wooden chess set.",
    "What is the difference between a democracy and a republic?",
    "How should I prepare for a telephone interview for an office job?",
    "Explain recursion with an everyday comparison.",
    "Invent a board game about beekeeping and describe its rules.",
    "What did people use before there were refrigerators?",
    "Help me write a toast for my sister's fortieth birthday.",
    "Why is the sea salty?",
    "How do I remove a coffee stain from a cotton shirt?",
    "Name the planets of the solar system and one fact about each.",
    "Write a limerick about a forgetful librarian.",
    "What are the advantages of public transport for a city?",
    "Explain how vaccines work in about a hundred words.",
    "Give me a simple exercise routine for somebody who sits all day.",
    "What is the plot of Romeo and Juliet?",
    "How can a small shop attract more customers without spending much?",
    "Write step-by-step instructions for changing a bicycle tyre.",
    "What does a stock exchange do?",
    "I am nervous about speaking in public. Any advice?",
    "Explain the difference between RAM and a hard disk.",
    "Write a short biography of Marie Curie.",
    "How do bees make honey?",
    "Suggest a title and three chapter headings for a book about rivers.",
    "Which vegetables can I grow on a balcony that faces north?",
    "What is inflation, and who gains from it?",
    "Rewrite this sentence so that it sounds more polite: Send me the report today.",
    "How do I start keeping a diary and not give up?",
    "Describe how a suspension bridge carries its load.",
    "What is the difference between a simile and a metaphor? Give two examples of each.",
    "Write a notice for the staircase about a lost grey cat.",
    "How do ships float although they are made of steel?",
    "Make a list of things to do with children on a rainy day.",
    "What were the causes of the First World War?",
    "Explain what photosynthesis needs and what it produces.",
    "How do I write a good cover letter?",
    "Tell a story of exactly six sentences in which a key is lost and found.",
    "What is a black hole?",
    "Compare living in a village with living in a big city.",
    "How often should I change my passwords, and why?",
    "Give me a riddle and its answer.",
    "Write a haiku for each of the four seasons.",
    "What is the best way to store bread?",
    "How does a microwave oven heat food?",
    "Explain supply and demand using the price of strawberries.",
    "What makes a good teacher?",
    "Write a letter from a soldier to his mother in 1916.",
    "How do I split a restaurant bill fairly?",
    "Name some traditional dishes of Portugal and describe them.",
    "What is the difference between machine learning and ordinary programming?",
    "How can I tell whether a mushroom is edible?",
    "Write a short speech for the opening of a village library.",
    "What are prime numbers good for?",
    "I keep forgetting people's names. How can I remember them?",
    "Explain the rules of football to somebody from Mars.",
    "What is the oldest city in the world?",
    "Give me a checklist for closing a summer house before the winter.",
    "How do I teach a dog to come when it is called?",
    "What would happen if the moon disappeared?",
    "Write a review of an imaginary restaurant in the style of a sports reporter.",
    "Explain why we have leap years.",
    "How do I make a budget for a student household?",
)

NAMES = (
    "Amara", "Boris", "Chiara", "Dmitri", "Elif", "Farid", "Greta", "Hamza", "Ines", "Jonas", "Keiko", "Liam",
    "Mirela", "Nadia", "Oskar", "Priya", "Quentin", "Rosa", "Sven", "Tariq", "Uma", "Viktor", "Wanda", "Yusuf",
)  # fmt: skip

# A question, the ranges of its numbers, and the answer's formula; {name} and {other} are people.
MATHEMATICS = (
    ("{name} buys {a} notebooks at {b} euros each and pays with a {c}0-euro note. How much change is there?",
     {"a": (2, 5), "b": (2, 4), "c": (3, 5)}, lambda a, b, c: 10 * c - a * b),
    ("A bus leaves with {a} passengers. At the first stop {b} get off and {c} get on. How many are on the bus now?",
     {"a": (20, 48), "b": (3, 15), "c": (2, 12)}, lambda a, b, c: a - b + c),
    ("{name} reads {a} pages a day. The book has {b} chapters of {c} pages. After how many full days is it finished?",
     {"a": (11, 25), "b": (6, 12), "c": (14, 30)}, lambda a, b, c: -(-b * c // a)),
    ("Each shelf holds {a} jars and there are {b} shelves. {name} sells {c} jars. How many are left?",
     {"a": (8, 16), "b": (5, 9), "c": (10, 38)}, lambda a, b, c: a * b - c),
    ("{name} is {a} years older than {other}, who will be {b} in {c} years. How old is {name} today?",
     {"a": (2, 14), "b": (24, 50), "c": (3, 9)}, lambda a, b, c: b - c + a),
    ("A tap fills {a} litres a minute. A tank of {b}00 litres already holds {c}0 litres. After how many whole minutes "
     "is it full?",
     {"a": (7, 19), "b": (3, 8), "c": (5, 20)}, lambda a, b, c: -(-(100 * b - 10 * c) // a)),
    ("Three friends share {a} bags of 3 apples equally, and each then eats {b} apples. How many does each have left?",
     {"a": (8, 20), "b": (1, 4)}, lambda a, b: a - b),
    ("A rectangle is {a} cm long and {b} cm wide. What is its area in square centimetres?",
     {"a": (7, 29), "b": (4, 18)}, lambda a, b: a * b),
    ("The fence around a garden of {a} m by {b} m costs {c} euros a metre. What does the whole fence cost?",
     {"a": (9, 24), "b": (5, 15), "c": (6, 14)}, lambda a, b, c: 2 * (a + b) * c),
    ("{name} cycles {a} km an hour for {b} hours, then walks {c} km. How far has {name} come?",
     {"a": (13, 22), "b": (2, 5), "c": (3, 9)}, lambda a, b, c: a * b + c),
    ("A shop sold {a} umbrellas on Monday, twice as many on Tuesday and {b} fewer than on Tuesday on Wednesday. "
     "How many in all three days?",
     {"a": (12, 30), "b": (3, 11)}, lambda a, b: 5 * a - b),
    ("{name} earns {a} euros an hour and works {b} hours a day for {c} days. What does {name} earn?",
     {"a": (12, 26), "b": (4, 8), "c": (3, 12)}, lambda a, b, c: a * b * c),
    ("What is {a}% of {b}00?", {"a": (5, 60), "b": (2, 9)}, lambda a, b: a * b),
    ("{name} thinks of a number, adds {a} to it and gets {b}. What is twice the number?",
     {"a": (3, 19), "b": (25, 60)}, lambda a, b: 2 * (b - a)),
    ("{name} has {a} red and {b} blue beads and makes bracelets of {c} beads. How many beads remain over?",
     {"a": (21, 60), "b": (18, 55), "c": (7, 13)}, lambda a, b, c: (a + b) % c),
    ("Compute {a} * {b} - {c}.", {"a": (12, 39), "b": (6, 18), "c": (15, 90)}, lambda a, b, c: a * b - c),
    ("A train takes {a} hours and {b} minutes. How many minutes is that?",
     {"a": (2, 9), "b": (5, 55)}, lambda a, b: 60 * a + b),
    ("In a class of {a} pupils, {b} play chess, {c} play the piano and 2 do both. How many do neither?",
     {"a": (24, 32), "b": (6, 11), "c": (5, 10)}, lambda a, b, c: a - b - c + 2),
    ("{name} saves {a} euros every week and {other} saves {b}. How much do they have together after {c} weeks?",
     {"a": (6, 18), "b": (5, 15), "c": (4, 20)}, lambda a, b, c: (a + b) * c),
    ("A recipe for 4 people needs {a}00 grams of flour. How many grams are needed for {b} people?",
     {"a": (2, 6), "b": (5, 14)}, lambda a, b: 25 * a * b),
)  # fmt: skip
