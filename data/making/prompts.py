"""Makes the bundled prompts again from the texts they were taken from.

``python -m making.prompts --sources FOLDER --out FOLDER``, called in the folder ``data``; the sources folder holds the
unpacked Debian packages that ``SOURCES.md`` beside the prompts lists. Code prompts come from the standard library of
the Python that runs this. What was written for the project (questions, short answers, summaries, requests) is in
`making.selections`; everything else is copied, white space and markup aside.
"""

from __future__ import annotations

import argparse
import ast
import html
import importlib.util
import operator
import platform
import re
import subprocess
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from random import Random
from typing import Any

from making import selections
from workbench.files import write_atomically
from workbench.tasks.prompts import Prompt, write_prompts

HANDBOOK = "debian-handbook/usr/share/doc/debian-handbook/html"
DOCUMENTATION = "python3.11-doc/usr/share/doc/python3.11/html/_sources"
OPERATIONS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}
LICENCES = {"handbook": "CC-BY-SA-3.0", "python": "PSF-2.0", "bible": "public domain"}


def handbook(sources: Path, section: str, numbers: Iterable[int], language: str = "en-US") -> str:
    """Paragraphs of one page of the Debian handbook, by their number on the page."""
    page = (sources / HANDBOOK / language / f"{section}.html").read_text(encoding="utf-8")
    paragraphs = re.findall(r'<div class="para">(.*?)</div>', page, re.DOTALL)
    return "\n\n".join(_one_line(html.unescape(re.sub(r"<[^>]+>", "", paragraphs[number]))) for number in numbers)


def documentation(sources: Path, page: str, heading: str, numbers: Iterable[int]) -> str:
    """Blocks under one heading of the Python documentation, by their number; code blocks keep their lines."""
    text = (sources / DOCUMENTATION / f"{page}.rst.txt").read_text(encoding="utf-8")
    _, rest = re.split(rf"^{re.escape(heading)}\n[-=*]+\n", text, maxsplit=1, flags=re.MULTILINE)
    section = re.split(r"^.+\n(?:-{4,}|={4,}|\*{4,})\n", rest, maxsplit=1, flags=re.MULTILINE)[0]
    blocks = [block for block in re.split(r"\n\s*\n", section.strip("\n")) if block.strip()]
    return "\n\n".join(_without_markup(blocks[number]) for number in numbers)


def bible(sources: Path, passage: str) -> list[str]:
    """Verses of the King James Version, as the program of the Debian package prints them."""
    program = sources / "bible-kjv/usr/bin/bible"
    data = sources / "bible-kjv-text/usr/lib"
    printed = subprocess.run([program, "-f", "-p", data, passage], capture_output=True, text=True, check=True).stdout
    return [line.split(" ", 1)[1] for line in printed.splitlines() if line.strip()]


def standard_library_function(module: str, name: str) -> tuple[str, str]:
    """A function of the standard library cut at the statement nearest the middle of its body.

    Returns
    -------
    tuple of str
        What comes before (signature, docstring, first statements) and the true continuation.
    """
    source = Path(importlib.util.find_spec(module).origin).read_text(encoding="utf-8")
    [function] = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and node.name == name]
    body = function.body[1:] if ast.get_docstring(function) else function.body
    starts = {node.lineno for statement in body for node in ast.walk(statement) if isinstance(node, ast.stmt)}
    middle = (body[0].lineno + function.end_lineno + 1) / 2
    cut = min(starts - {body[0].lineno} or starts, key=lambda line: (abs(line - middle), line))
    lines = source.splitlines(keepends=True)
    first = min([function.lineno, *(decorator.lineno for decorator in function.decorator_list)])
    return "".join(lines[first - 1 : cut - 1]), "".join(lines[cut - 1 : function.end_lineno])


def introduce_errors(text: str, seed: int, share: float = 0.09) -> tuple[str, list[list[str]]]:
    """Spoil a share of the words as a careless writer would; returns the text and the pairs (wrong, right)."""
    random = Random(seed)
    words = re.split(r"(\s+)", text)
    # Words with digits, capitals inside or markup are names and commands: an editor could not know them wrong.
    positions = [index for index in range(0, len(words), 2) if re.fullmatch(r"[A-Z]?[a-z']+[,.;:]?", words[index])]
    errors = []
    for index in sorted(random.sample(positions, max(3, round(share * len(positions))))):
        right = words[index]
        words[index] = _misspell(right, random)
        if words[index] != right:
            errors.append([words[index], right])
    return "".join(words), errors


def _misspell(word: str, random: Random) -> str:
    core = word.rstrip(",.;:")
    tail = word[len(core) :]
    if core.lower() in selections.CONFUSED:
        return selections.CONFUSED[core.lower()] + tail
    if tail == "," and random.random() < 0.5:
        return core
    if core[0].isupper() and random.random() < 0.7:
        return core.lower() + tail
    if len(core) < 4:
        return f"{core} {core}{tail}"
    at = random.randrange(1, len(core) - 1)
    kind = random.choice(("swap", "drop", "double"))
    if kind == "swap" and core[at] != core[at + 1]:
        return core[:at] + core[at + 1] + core[at] + core[at + 2 :] + tail
    if kind == "drop":
        return core[:at] + core[at + 1 :] + tail
    return core[:at] + core[at] + core[at:] + tail


def passage(sources: Path, where: tuple) -> tuple[str, dict[str, str]]:
    """The text a selection points at, and its source and licence as metadata."""
    kind, *place = where
    if kind == "handbook":
        text, source = handbook(sources, *place), f"The Debian Administrator's Handbook, {place[0]}"
    elif kind == "python":
        text, source = documentation(sources, *place), f"Python 3.11 documentation, {place[0]}: {place[1]}"
    else:
        text, source = " ".join(bible(sources, *place)), f"King James Version, {place[0]}"
    return text, {"source": source, "licence": LICENCES[kind]}


def chat(sources: Path) -> list[Prompt]:
    found = []
    for name, question, shown, answer, request in selections.CHAT:
        parts = [question, passage(sources, shown)[0] if shown else "", request]
        reference, metadata = passage(sources, answer)
        found.append(Prompt(name, "\n\n".join(part for part in parts if part), reference, "chat", metadata=metadata))
    return found


def summarising(sources: Path) -> list[Prompt]:
    found = []
    for name, where, summary in selections.SUMMARISING:
        text, metadata = passage(sources, where)
        request = "Summarise the following text in one or two sentences."
        found.append(Prompt(name, f"{request}\n\n{text}", summary, "summarising", metadata=metadata))
    return found


def code_completion(sources: Path) -> list[Prompt]:
    found = []
    for module, name in selections.FUNCTIONS:
        start, rest = standard_library_function(module, name)
        metadata = {
            "source": f"Python standard library, {module}.{name}",
            "licence": LICENCES["python"],
            "module": module,
            "function": name,
            "python": platform.python_version(),
        }
        found.append(Prompt(f"{module}.{name}", start, rest, "code_completion", chat=False, metadata=metadata))
    return found


def copy_editing(sources: Path) -> list[Prompt]:
    found = []
    for seed, (name, where) in enumerate(selections.COPY_EDITING):
        text, metadata = passage(sources, where)
        spoilt, errors = introduce_errors(text, seed)
        request = (
            "Correct the spelling, grammar and punctuation of the text below. "
            "Change nothing else, and reply with the corrected text only."
        )
        metadata = {**metadata, "errors": errors}
        found.append(Prompt(name, f"{request}\n\n{spoilt}", text, "copy_editing", metadata=metadata))
    return found


def translation(sources: Path) -> list[Prompt]:
    found = []
    for section, number, start, goal in selections.TRANSLATION:
        texts = [handbook(sources, section, [number], language) for language in (start, goal)]
        if texts[0] == texts[1]:
            raise ValueError(f"{section} paragraph {number} has no translation from {start} into {goal}")
        languages = [selections.LANGUAGES[language] for language in (start, goal)]
        request = (
            f"Translate the following text from {languages[0]} into {languages[1]}. Reply with the translation only."
        )
        metadata = {
            "source": f"The Debian Administrator's Handbook, {section}, paragraph {number}, {start} and {goal}",
            "licence": LICENCES["handbook"],
            "from": start,
            "to": goal,
        }
        name = f"{start[:2]}-{goal[:2]}-{section.removeprefix('sect.')}-{number}"
        found.append(Prompt(name, f"{request}\n\n{texts[0]}", texts[1], "translation", metadata=metadata))
    return found


def question_answering(sources: Path) -> list[Prompt]:
    found = []
    for name, where, question, accepted in selections.QUESTIONS:
        text, metadata = passage(sources, where)
        answer, *others = [accepted] if isinstance(accepted, str) else accepted
        if answer not in text:
            raise ValueError(f"the answer {answer!r} of {name} is not in its passage")
        asked = f"Passage: {text}\n\nQuestion: {question}\n\nAnswer in a few words, using only the passage."
        if others:
            metadata = {**metadata, "answers": others}
        at = asked.rindex("Question: ")
        found.append(Prompt(name, asked, answer, "question_answering", metadata=metadata, question_at=at))
    return found


def mathematics(sources: Path) -> list[Prompt]:
    found = []
    for name, question, calculation in selections.MATHEMATICS:
        asked = f"{question}\n\nWork it out step by step, and end with the answer as a number."
        answer = calculate(calculation)
        shown = str(answer.numerator) if answer.denominator == 1 else str(float(answer))
        metadata = {"source": "written for this project", "licence": "Apache-2.0", "calculation": calculation}
        found.append(Prompt(name, asked, shown, "mathematics", metadata=metadata))
    return found


def retrieval_augmented(sources: Path) -> list[Prompt]:
    found = []
    for seed, (name, question, accepted, holding, others) in enumerate(selections.RETRIEVAL):
        answer, *wordings = [accepted] if isinstance(accepted, str) else accepted
        places = [*holding, *others]
        Random(seed).shuffle(places)
        passages = [passage(sources, place) for place in places]
        for place, (text, _) in zip(places, passages, strict=True):
            stands = re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", text, re.IGNORECASE) is not None
            if stands != (place in holding):
                raise ValueError(f"{name}: {place} {'holds' if stands else 'lacks'} the answer {answer!r}")
        shown = "\n\n".join(f"Passage {number}: {text}" for number, (text, _) in enumerate(passages, start=1))
        asked = (
            "Answer the question with the help of the passages. Only some of them are about it.\n\n"
            f"{shown}\n\nQuestion: {question}\n\nAnswer in a few words."
        )
        metadata: dict[str, Any] = {
            "source": "; ".join(dict.fromkeys(each["source"] for _, each in passages)),
            "licence": passages[0][1]["licence"],
            "evidence": [number for number, place in enumerate(places, start=1) if place in holding],
        }
        if wordings:
            metadata["answers"] = wordings
        at = asked.rindex("Question: ")
        found.append(Prompt(name, asked, answer, "retrieval_augmented", metadata=metadata, question_at=at))
    return found


MAKERS = (
    chat,
    summarising,
    code_completion,
    copy_editing,
    translation,
    question_answering,
    mathematics,
    retrieval_augmented,
)


def calculate(expression: str) -> Fraction:
    """The exact value of a calculation in plain numbers and the four operations."""

    def value(node: ast.expr) -> Fraction:
        if isinstance(node, ast.BinOp):
            return OPERATIONS[type(node.op)](value(node.left), value(node.right))
        return Fraction(str(ast.literal_eval(node)))

    return value(ast.parse(expression, mode="eval").body)


def _one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


def _without_markup(block: str) -> str:
    """reStructuredText to plain text: roles, literals, emphasis and links lose their marks."""
    lines = block.split("\n")
    # An indented block is code unless its first line is as long as a line of prose: then it is a quotation.
    if block[0] == " " and len(lines[0].strip()) < 60:
        margin = min(len(line) - len(line.lstrip()) for line in lines if line.strip())
        return "\n".join(line[margin:].rstrip() for line in lines)
    text = re.sub(r":[a-z:]+:`[!~.]*([^`<]*?)(?:\s*<[^`]*>)?`", r"\1", _one_line(block))
    text = re.sub(r"`([^`<]*?)\s*<[^`]*>`_+", r"\1", text)
    text = re.sub(r"``([^`]*)``", r"\1", text)
    text = re.sub(r"(?<!\w)\*{1,2}([^*\s](?:[^*]*[^*\s])?)\*{1,2}(?!\w)", r"\1", text)
    return re.sub(r"::$", ":", text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sources", type=Path, required=True, help="folder of the unpacked Debian packages")
    parser.add_argument("--out", type=Path, required=True, help="the workbench_data folder to write into")
    arguments = parser.parse_args()
    for maker in MAKERS:
        write_prompts(maker(arguments.sources), arguments.out / "prompts" / f"{maker.__name__}.jsonl")
    verses = bible(arguments.sources, selections.HAYSTACK)
    write_atomically(arguments.out / "prompts" / "haystack" / "genesis.txt", "\n".join(verses) + "\n")


if __name__ == "__main__":
    main()
