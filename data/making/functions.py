"""Makes the held-out functions again: ``python -m making.functions --out FOLDER``, called in the folder ``data`` with
CPython 3.11.7."""

from __future__ import annotations

import argparse
import ast
import platform
import re
from pathlib import Path
from random import Random

from workbench.tasks.functions import functions_of, learned_functions
from workbench.tasks.prompts import Prompt, write_prompts

MODULES = (
    "calendar", "codecs", "colorsys", "configparser", "difflib", "enum", "fileinput", "fnmatch", "ftplib",
    "graphlib", "heapq", "hmac", "imaplib", "mailbox", "modulefinder", "netrc", "pathlib",
    "poplib", "pstats", "queue", "random", "sched", "selectors", "shelve", "shlex", "shutil", "socketserver",
    "statistics", "string", "textwrap", "threading", "turtle", "wave", "weakref", "zipimport",
)  # fmt: skip
EACH = 4
SHORTEST, LONGEST = 200, 1_000  # characters of a function
SEED = 7
RUN = 12  # words in a row that no function may share with one that is learned from


def cut(text: str) -> int:
    """The line of a function, from 0, with the statement nearest the middle of its body; 0 if there is but one."""
    [function] = ast.parse(text).body
    body = function.body[1:] if ast.get_docstring(function) else function.body
    if not body:
        return 0
    starts = {node.lineno for statement in body for node in ast.walk(statement) if isinstance(node, ast.stmt)}
    middle = (body[0].lineno + function.end_lineno + 1) / 2
    later = starts - {body[0].lineno}
    return min(later, key=lambda line: (abs(line - middle), line)) - 1 if later else 0


def runs(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[place : place + RUN]) for place in range(len(words) - RUN + 1)}


def make() -> list[Prompt]:
    found, random = [], Random(SEED)
    learned = set().union(*(runs(text) for _, text in learned_functions()))
    for module in MODULES:
        once = {
            name: text
            for name, text in functions_of(module)
            if SHORTEST <= len(text) <= LONGEST and cut(text) and not runs(text) & learned
        }
        for name in random.sample(sorted(once), min(EACH, len(once))):
            lines = once[name].splitlines(keepends=True)
            place = cut(once[name])
            metadata = {"source": f"Python standard library, {module}.{name}", "licence": "PSF-2.0", "module": module,
                        "python": platform.python_version()}  # fmt: skip
            start, rest = "".join(lines[:place]), "".join(lines[place:])
            found.append(Prompt(f"{module}.{name}", start, rest, "code_completion", chat=False, metadata=metadata))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the workbench_data folder to write into")
    folder = parser.parse_args().out / "prompts" / "functions"
    folder.mkdir(parents=True, exist_ok=True)
    write_prompts(make(), folder / "held_out.jsonl")


if __name__ == "__main__":
    main()
