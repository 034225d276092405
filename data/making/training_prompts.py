"""Makes the training prompts: what trained parts are distilled on, apart from everything that is evaluated.

``python -m making.training_prompts --sources FOLDER --out FOLDER``, with the folders of `making.prompts`. Texts are
drawn by a seeded generator from the pages, books and modules that `making.training_selections` names; no text is used
twice.
"""

from __future__ import annotations

import argparse
import ast
import html
import importlib.util
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from making import prompts as extract
from making import selections
from making import training_selections as chosen
from workbench.tasks.prompts import Prompt, write_prompts


@dataclass(frozen=True)
class Text:
    """A paragraph or passage, where it is from, and what it can be asked about."""

    text: str
    source: str
    licence: str
    term: str = ""
    place: tuple = ()

    @property
    def words(self) -> int:
        return len(self.text.split())

    def metadata(self, *others: Text) -> dict[str, str]:
        found = dict.fromkeys(each.source for each in (self, *others))
        licences = sorted({each.licence for each in (self, *others)})
        return {"source": "; ".join(found), "licence": ", ".join(licences)}


def handbook_pages(sources: Path) -> Iterator[list[Text]]:
    """Paragraphs of every page of the handbook that is not kept for evaluation."""
    for page in sorted((sources / extract.HANDBOOK / "en-US").glob("*.html")):
        if page.stem in chosen.EVALUATION_PAGES:
            continue
        found = []
        source = f"The Debian Administrator's Handbook, {page.stem}"
        paragraphs = re.findall(r'<div class="para">(.*?)</div>', page.read_text(encoding="utf-8"), re.DOTALL)
        for number, paragraph in enumerate(paragraphs):
            text = _plain(paragraph)
            if re.match(r"[A-Z].*\.$", text):
                named = re.search(r'<(?:code class="command"|span class="pkg pkg")>([^<]{3,30})<', paragraph)
                kind = "command" if named and "command" in named[0] else "package"
                term = f"the {kind} {named[1].strip()}" if named else ""
                found.append(Text(text, source, "CC-BY-SA-3.0", term, (page.stem, number)))
        yield found


def documentation_pages(sources: Path) -> Iterator[list[Text]]:
    """Paragraphs of prose of pages of the Python documentation."""
    for page in chosen.PROSE:
        text = (sources / extract.DOCUMENTATION / f"{page}.rst.txt").read_text(encoding="utf-8")
        blocks = (extract._without_markup(block) for block in re.split(r"\n\s*\n", text) if block[:1].isalpha())
        prose = [block for block in blocks if re.fullmatch(r"[A-Z][^`|]*\.", block) and "::" not in block]
        yield [Text(block, f"Python 3.11 documentation, {page}", "PSF-2.0") for block in prose]


def documented_functions(sources: Path) -> list[Text]:
    """What the Python documentation says of single functions."""
    found = []
    for page in chosen.REFERENCE:
        text = (sources / extract.DOCUMENTATION / f"{page}.rst.txt").read_text(encoding="utf-8")
        for name, body in re.findall(r"^\.\. function:: ([\w.]+)\(.*\n((?:\n|[ ].*\n)+)", text, re.MULTILINE):
            blocks = [block for block in re.split(r"\n\s*\n", body) if re.match(r"\n* {3}[A-Z]", block)]
            plain = " ".join(extract._without_markup(extract._one_line(block)) for block in blocks[:3])
            if plain.endswith(".") and not re.search(r"[`|]|\.\. |::", plain):
                source = f"Python 3.11 documentation, {page}: {name}"
                found.append(Text(f"{name}(): {plain}", source, "PSF-2.0", f"{name}()"))
    return found


def stories(sources: Path) -> list[Text]:
    """Passages of the King James Version."""
    return [
        Text(" ".join(extract.bible(sources, verses)), f"King James Version, {verses}", "public domain")
        for verses in chosen.VERSES
    ]


class Pool:
    """The texts that are left to draw from."""

    def __init__(self, sources: Path, random: Random):
        self.random = random
        self.pages = [*handbook_pages(sources), *documentation_pages(sources)]
        self.functions = [text for text in documented_functions(sources) if 30 <= text.words <= 150]
        self.stories = stories(sources)
        random.shuffle(self.functions)
        random.shuffle(self.stories)

    def paragraph(self, least: int, most: int, fits: Callable[[Text], bool] = bool) -> Text:
        """One paragraph of so many words, from a page taken at random."""
        while True:
            page = self.random.choice(self.pages)
            fitting = [text for text in page if least <= text.words <= most and fits(text)]
            if fitting:
                text = self.random.choice(fitting)
                page.remove(text)
                return text

    def passage(self, least: int, most: int) -> Text:
        """Neighbouring paragraphs of one page, together of so many words."""
        while True:
            page = self.random.choice(self.pages)
            if not page:
                continue
            start, taken = self.random.randrange(len(page)), []
            while start < len(page) and sum(text.words for text in taken) < least:
                taken.append(page.pop(start))
            text = Text("\n\n".join(text.text for text in taken), taken[0].source, taken[0].licence)
            if least <= text.words <= most:
                return text


def chat(pool: Pool, sources: Path, count: int = 32) -> Iterator[Prompt]:
    metadata = {"source": "written for this project", "licence": "Apache-2.0"}
    for text in chosen.CHAT:
        yield Prompt("", text, None, "chat", metadata=metadata)
    for number in range(count):
        text = pool.paragraph(40, 120)
        request = chosen.EXPLAIN[number % len(chosen.EXPLAIN)]
        parts = [request, text.text] if number % 3 else [text.text, request]
        yield Prompt("", "\n\n".join(parts), None, "chat", metadata=text.metadata())


def translation(pool: Pool, sources: Path, count: int = 80) -> Iterator[Prompt]:
    others = [language for language in selections.LANGUAGES if language != "en-US"]
    while count:
        text = pool.paragraph(20, 90, lambda text: bool(text.place))
        page, number = text.place
        language = others[count % len(others)]
        try:
            translated = extract.handbook(sources, page, [number], language)
        except IndexError:
            continue
        # Where the translators left a paragraph in English there is nothing to translate.
        if _alike(text.text, translated) > 0.5:
            continue
        start, goal = ("en-US", language) if count % 2 else (language, "en-US")
        shown = text.text if start == "en-US" else translated
        names = {"start": selections.LANGUAGES[start], "goal": selections.LANGUAGES[goal]}
        request = pool.random.choice(chosen.TRANSLATE).format(**names)
        metadata = {**text.metadata(), "from": start, "to": goal}
        yield Prompt("", f"{request}\n\n{shown}", None, "translation", metadata=metadata)
        count -= 1


def summarising(pool: Pool, sources: Path, count: int = 75) -> Iterator[Prompt]:
    for number in range(count):
        text = pool.stories.pop() if number % 7 == 0 else pool.passage(120, 300)
        request = pool.random.choice(chosen.SUMMARISE)
        parts = [request, text.text] if number % 3 else [text.text, request]
        yield Prompt("", "\n\n".join(parts), None, "summarising", metadata=text.metadata())


def copy_editing(pool: Pool, sources: Path, count: int = 65) -> Iterator[Prompt]:
    for number in range(count):
        text = pool.paragraph(50, 130)
        spoilt, _ = extract.introduce_errors(text.text, 1000 + number, pool.random.uniform(0.04, 0.13))
        request = pool.random.choice(chosen.EDIT)
        yield Prompt("", f"{request}\n\n{spoilt}", None, "copy_editing", metadata=text.metadata())


def question_answering(pool: Pool, sources: Path, count: int = 70) -> Iterator[Prompt]:
    for number in range(count):
        text, question = _asked(pool, number)
        answer = pool.random.choice(chosen.ANSWER)
        parts = [text.text, question, answer] if number % 2 else [question, answer, text.text]
        yield Prompt("", "\n\n".join(parts), None, "question_answering", metadata=text.metadata())


def retrieval_augmented(pool: Pool, sources: Path, count: int = 50) -> Iterator[Prompt]:
    for number in range(count):
        text, question = _asked(pool, 2 * number)
        others = [pool.paragraph(50, 130) for _ in range(pool.random.randint(3, 4))]
        shown = [text, *others]
        pool.random.shuffle(shown)
        mark = pool.random.choice(("({})", "Extract {}:", "{}.", "Document {}:"))
        extracts = "\n\n".join(f"{mark.format(place)} {each.text}" for place, each in enumerate(shown, 1))
        parts = [pool.random.choice(chosen.CONTEXT), extracts, question]
        yield Prompt("", "\n\n".join(parts), None, "retrieval_augmented", metadata=text.metadata(*others))


def mathematics(pool: Pool, sources: Path, each: int = 4) -> Iterator[Prompt]:
    metadata = {"source": "written for this project", "licence": "Apache-2.0"}
    for number in range(each):
        for pattern, (question, ranges, answer) in enumerate(chosen.MATHEMATICS):
            drawn = {name: pool.random.randint(*limits) for name, limits in ranges.items()}
            name, other = pool.random.sample(chosen.NAMES, 2)
            asked = question.format(name=name, other=other, **drawn)
            asked += ("", " Think step by step.", " Show how you get there.", " Give the number only.")[number]
            yield Prompt("", asked, str(answer(**drawn)), "mathematics", metadata={**metadata, "pattern": pattern})


def code_completion(pool: Pool, sources: Path) -> Iterator[Prompt]:
    for module in chosen.MODULES:
        functions = _functions(module)
        for name in pool.random.sample(functions, min(1, len(functions))):
            start, _ = extract.standard_library_function(module, name)
            metadata = {"source": f"Python standard library, {module}.{name}", "licence": "PSF-2.0"}
            yield Prompt("", start, None, "code_completion", chat=False, metadata=metadata)


MAKERS = (
    chat, translation, summarising, copy_editing, question_answering, retrieval_augmented, mathematics,
    code_completion,
)  # fmt: skip


def make(sources: Path) -> dict[str, list[Prompt]]:
    """Every training prompt, by task."""
    found = {}
    pool = Pool(sources, Random(chosen.SEED))
    for maker in MAKERS:
        made = [
            Prompt(f"training-{maker.__name__}-{number:03d}", each.prompt, each.reference, each.task, each.chat,
                   each.metadata)
            for number, each in enumerate(maker(pool, sources))
        ]  # fmt: skip
        found[maker.__name__] = made
    return found


def _asked(pool: Pool, number: int) -> tuple[Text, str]:
    """A text and a question on it: on a thing the handbook names, a function of Python, or a story."""
    if number % 8 == 0 and pool.stories:
        return pool.stories.pop(), pool.random.choice(chosen.ASK_STORY)
    if number % 4 == 2:
        text = pool.functions.pop()
        return text, pool.random.choice(chosen.ASK_FUNCTION).format(term=text.term)
    text = pool.paragraph(50, 140, lambda text: bool(text.term))
    return text, pool.random.choice(chosen.ASK).format(term=text.term)


def _functions(module: str) -> list[str]:
    """Names of the functions of a module that are neither very short nor very long, in the order of the file."""
    source = Path(importlib.util.find_spec(module).origin).read_text(encoding="utf-8")
    functions = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    names = [node.name for node in functions]
    return [
        node.name
        for node in functions
        if 10 <= node.end_lineno - node.lineno <= 45 and len(node.body) > 1 and names.count(node.name) == 1
    ]


def _plain(paragraph: str) -> str:
    return extract._one_line(html.unescape(re.sub(r"<[^>]+>", "", paragraph)))


def _alike(first: str, second: str) -> float:
    words = set(first.split())
    return len(words & set(second.split())) / len(words)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sources", type=Path, required=True, help="folder of the unpacked Debian packages")
    parser.add_argument("--out", type=Path, required=True, help="the workbench_data folder to write into")
    arguments = parser.parse_args()
    folder = arguments.out / "prompts" / "training"
    folder.mkdir(parents=True, exist_ok=True)
    for name, prompts in make(arguments.sources).items():
        write_prompts(prompts, folder / f"{name}.jsonl")


if __name__ == "__main__":
    main()
