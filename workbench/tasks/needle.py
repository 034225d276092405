"""A needle in a haystack: one odd sentence put into a long real text at a chosen depth, and asked for at the end.

The haystack is a bundled public-domain text (see ``SOURCES.md`` beside it). The needle stands between two of its
sentences; the text before and after is the haystack's own, in order, cut to words so that the prompt has exactly the
tokens asked for. The prompt ends with the first words of the answer, so that a small model need only complete it.

Source: the pressure test by Kamradt (2023) and the passkey task of Mohtashami and Jaggi, "Landmark Attention", 2023,
arXiv 2305.16300. Deviates: a needle is drawn from several templates with random contents, and the length is exact.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from math import ceil
from random import Random
from typing import Any

from workbench.errors import PromptError
from workbench.tasks.prompt import Prompt
from workbench.tasks.scorers import contains
from workbench.tokenizing import write_chat

__all__ = ["TEMPLATES", "NeedleTemplate", "haystack", "needle", "needle_found"]

INSTRUCTION = "Read the following text and remember what it says. You will be asked about it.\n\n"
MINIMUM_HAYSTACK = 16
"""Tokens of haystack below which a depth would mean nothing."""

CITIES = ("Oslo", "Lisbon", "Nairobi", "Quito", "Hanoi", "Toronto", "Reykjavik", "Melbourne", "Warsaw", "Kyoto")
THINGS = ("saxophone", "telescope", "marmalade", "umbrella", "dragonfly", "pineapple", "guitar", "compass", "lantern")
PLACES = ("lighthouse", "library", "museum", "harbour", "airport", "theatre", "hospital", "railway station")


@dataclass(frozen=True)
class NeedleTemplate:
    """How a needle is worded.

    Attributes
    ----------
    sentence
        The needle up to its answer, with ``{subject}``; the prompt ends with these words too.
    question
        The question, with ``{subject}``.
    subjects
        What ``{subject}`` is drawn from.
    answers
        What the answer is drawn from; empty for a random number of five digits.
    """

    sentence: str
    question: str
    subjects: Sequence[str]
    answers: Sequence[str] = ()


TEMPLATES: tuple[NeedleTemplate, ...] = (
    NeedleTemplate(
        "The special magic number for {subject} is",
        "What is the special magic number for {subject} mentioned in the text?",
        CITIES,
    ),
    NeedleTemplate(
        "The telephone number of the {subject} is",
        "What is the telephone number of the {subject} mentioned in the text?",
        PLACES,
    ),
    NeedleTemplate(
        "The secret password of the {subject} is the word",
        "What is the secret password of the {subject} mentioned in the text?",
        PLACES,
        THINGS,
    ),
    NeedleTemplate(
        "The favourite thing of the mayor of {subject} is the",
        "What is the favourite thing of the mayor of {subject}, as mentioned in the text?",
        CITIES,
        THINGS,
    ),
)


@cache
def haystack() -> tuple[str, ...]:
    """The verses of the bundled long text (King James Version, Genesis, chapters 24 to 50), in order."""
    text = files("workbench_data").joinpath("prompts", "haystack", "genesis.txt").read_text(encoding="utf-8")
    return tuple(line for line in text.splitlines() if line.strip())


def needle(tokenizer: Any, length: int, depth: float | int, seed: int = 0, *, template: int | None = None) -> Prompt:
    """A prompt of exactly `length` tokens with a needle at `depth`.

    Parameters
    ----------
    tokenizer
        A transformers tokenizer. With a chat template the text is wrapped in it (and needs no formatting
        afterwards); without, it is plain text.
    length
        Tokens of the whole prompt, template, question and start of the answer included, as
        `workbench.tasks.encode_prompt` counts them.
    depth
        Share of the haystack's tokens that stand before the needle, 0 (first) to 1 (last); met to within
        the few tokens of one or two words.
    seed
        Chooses the template, the needle's contents and the place in the long text. The same seed gives the same
        needle at every length and depth, so that they can be compared.
    template
        Index into `TEMPLATES`; chosen by the seed if None.

    Returns
    -------
    Prompt
        ``reference`` is the answer, and ``question_at`` marks the question, so that the haystack can be compressed
        before it is asked; ``metadata`` has ``needle`` (the sentence), ``depth``, ``length``, ``seed`` and
        ``tokens_before``, ``tokens_after`` (haystack tokens on either side).

    Raises
    ------
    PromptError
        `depth` is outside [0, 1], `template` is none, or `length` is too short to hold needle and
        question or longer than the bundled text allows.
    """
    if not 0 <= depth <= 1:
        raise PromptError(f"depth must be between 0 and 1, not {depth}")
    if template is not None and not 0 <= template < len(TEMPLATES):
        raise PromptError(f"template must be 0 to {len(TEMPLATES) - 1}, not {template}")
    random = Random(seed)
    drawn = random.randrange(len(TEMPLATES))
    chosen = TEMPLATES[drawn if template is None else template]
    subject = random.choice(chosen.subjects)
    answer = random.choice(chosen.answers) if chosen.answers else str(random.randrange(10_000, 100_000))
    opening = chosen.sentence.format(subject=subject)
    sentence = f"{opening} {answer}."
    question = chosen.question.format(subject=subject)

    templated = getattr(tokenizer, "chat_template", None) is not None

    def write(before: Sequence[str], after: Sequence[str]) -> str:
        content = f"{INSTRUCTION}{' '.join([*before, sentence, *after])}\n\n{question}"
        if not templated:
            return f"{content}\n\n{opening}"
        return write_chat(tokenizer, [{"role": "user", "content": content}]) + opening

    def count(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=not templated)["input_ids"])

    before, after = _surround(lambda before, after: count(write(before, after)), length, depth, random)
    text = write(before, after)
    bare = count(write([], after))
    metadata = {
        "needle": sentence,
        "depth": depth,
        "length": length,
        "seed": seed,
        "tokens_before": length - bare,
        "tokens_after": length - count(write(before, [])),
        "templated": templated,
        "source": "King James Version, Genesis 24-50",
        "licence": "public domain",
    }
    name, asked = f"needle-{length}-{depth:g}-{seed}", text.rindex(question)
    return Prompt(name, text, answer, "needle", chat=False, metadata=metadata, question_at=asked)


def needle_found(answer: str, prompt: Prompt) -> bool:
    """Whether an answer holds the needle's number or word, as a whole word."""
    return contains(answer, prompt) == 1.0


Words = Sequence[str]
Total = Callable[[Words, Words], int]


def _surround(total: Total, length: int, depth: float | int, random: Random) -> tuple[Words, Words]:
    """Words of the haystack for both sides of the needle, so that the whole has exactly `length` tokens.

    A word more may be two tokens more, so not every length can be hit from every place: the side before
    the needle gives way by a few words, and then another place is tried.
    """
    words, boundaries = _words()
    empty = total([], [])
    if length < empty + MINIMUM_HAYSTACK:
        raise PromptError(
            f"this needle prompt needs at least {empty + MINIMUM_HAYSTACK} tokens, {length} were asked for"
        )
    budget = length - empty
    wanted = round(depth * budget)
    sample = words[:2000]
    tokens_per_word = (total(sample, []) - empty) / len(sample)
    # Enough words on each side, with a tenth to spare where the text is wordier than the sample.
    words_before = ceil(1.1 * wanted / tokens_per_word) + 40
    words_after = ceil(1.1 * (budget - wanted) / tokens_per_word) + 40
    places = [place for place in boundaries if words_before <= place <= len(words) - words_after]
    if not places:
        longest = int((len(words) - 80) / 1.1 * tokens_per_word) + empty
        raise PromptError(f"the bundled text is long enough for about {longest} tokens, {length} were asked for")
    for place in random.sample(places, min(len(places), 40)):
        left, right = words[place - words_before : place], words[place : place + words_after]
        fitted = _fit(total, left, right, length, empty + wanted, wanted == budget)
        if fitted is not None:
            return fitted
    raise PromptError(f"no cut of the bundled text gives exactly {length} tokens; ask for a token more or less")


def _fit(
    total: Total, left: Words, right: Words, length: int, length_before: int, last: bool
) -> tuple[Words, Words] | None:
    """The end of `left` and the start of `right` that together give `length`, or None where no cut does."""

    def ending(number: int) -> Words:
        return left[len(left) - number :]

    if last:
        before = ending(_most(lambda number: total(ending(number), []), len(left), length))
        return (before, []) if total(before, []) == length else None
    number = _most(lambda number: total(ending(number), []), len(left), length_before)
    for fewer in range(min(3, number + 1)):
        before = ending(number - fewer)
        after = right[: _most(lambda more, before=before: total(before, right[:more]), len(right), length)]
        if total(before, after) == length:
            return before, after
    return None


def _most(size: Callable[[int], int], limit: int, allowed: int) -> int:
    """The largest number in 0..limit whose size is within what is allowed (sizes grow with the number)."""
    return max(bisect_left(range(limit + 1), allowed + 1, key=size) - 1, 0)


@cache
def _words() -> tuple[tuple[str, ...], tuple[int, ...]]:
    """All words of the haystack, and the word positions at which a sentence starts (and where the text ends)."""
    words: list[str] = []
    boundaries = [0]
    for line in haystack():
        words.extend(line.split())
        if line[-1] in ".?!":
            boundaries.append(len(words))
    return tuple(words), tuple(boundaries)
