"""A task's own score of an answer: each function takes the answer and its prompt and returns a number in [0, 1].

The accepted answers are the prompt's reference and, where given, those in the metadata's ``answers``; the best of them
counts, in every scorer.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal
from difflib import SequenceMatcher
from types import MappingProxyType

from workbench.errors import PromptError
from workbench.tasks.prompt import Prompt

__all__ = [
    "SCORERS",
    "bleu",
    "chrf",
    "code_similarity",
    "contains",
    "edit_similarity",
    "exact_match",
    "number",
    "rouge_l",
    "score",
    "scorer_for",
]

Scorer = Callable[[str, Prompt], float]


def exact_match(prediction: str, prompt: Prompt) -> float:
    """1 if the answer is one of the accepted ones, whatever the spacing around and between its words."""
    words = prediction.split()
    return float(any(words == answer.split() for answer in _accepted(prompt)))


def contains(prediction: str, prompt: Prompt) -> float:
    """1 if an accepted answer stands in the text as whole words, whatever the case and spacing.

    A number inside a longer number does not count.
    """
    text = " ".join(prediction.split())
    patterns = (rf"(?<!\w){re.escape(' '.join(answer.split()))}(?!\w)" for answer in _accepted(prompt))
    return float(any(re.search(pattern, text, re.IGNORECASE) for pattern in patterns))


def number(prediction: str, prompt: Prompt) -> float:
    """1 if the last number in the answer equals the last number in an accepted answer.

    Commas between thousands are left out and trailing zeros do not matter: ``1,240.50`` equals ``1240.5``. That the
    last number counts is how the answers of grade-school problems are usually read (Cobbe et al., "Training Verifiers
    to Solve Math Word Problems", 2021, arXiv 2110.14168, end their solutions with it).
    """
    wanted = {_last_number(answer) for answer in _accepted(prompt)} - {None}
    return float(_last_number(prediction) in wanted)


def rouge_l(prediction: str, prompt: Prompt) -> float:
    """ROUGE-L F-measure against the nearest reference (`workbench.metrics.text.rouge_l`)."""
    from workbench.metrics import text

    return max(text.rouge_l(prediction, reference) for reference in _references(prompt))


def chrf(prediction: str, prompt: Prompt) -> float:
    """chrF2 of one translation against the nearest of its references, as sacrebleu computes it, over 100.

    Paper: Popović, "chrF: character n-gram F-score for automatic MT evaluation", 2015.
    """
    from sacrebleu import sentence_chrf

    return _unit(sentence_chrf(prediction, _references(prompt)).score / 100)


def bleu(prediction: str, prompt: Prompt) -> float:
    """BLEU of one sentence with sacrebleu's defaults (exponential smoothing, effective order), over 100; of several
    references it counts the n-grams of all, as the paper does.

    Paper: Papineni et al., "BLEU: a Method for Automatic Evaluation of Machine Translation", 2002. Deviates:
    the paper scores a corpus; over single sentences it is noisy, hence chrF is this library's default.
    """
    from sacrebleu import sentence_bleu

    return _unit(sentence_bleu(prediction, _references(prompt)).score / 100)


def edit_similarity(prediction: str, prompt: Prompt) -> float:
    """How alike the answer and the reference are character by character (difflib's ratio).

    For copy-editing the text before any correction already scores about 0.95 or more: read differences,
    not the level.
    """
    return max(_alike(prediction.strip(), reference.strip()) for reference in _references(prompt))


def code_similarity(prediction: str, prompt: Prompt) -> float:
    """`edit_similarity` after cutting the continuation where the function ends.

    The function ends before the first line of the continuation that starts in the first column: what a model goes
    on to write after the function is not held against it. Trailing space is ignored, indentation is not.
    """
    kept = []
    for line in prediction.splitlines():
        if kept and line[:1].strip():
            break
        kept.append(line.rstrip())
    wanted = ["\n".join(line.rstrip() for line in each.rstrip().splitlines()) for each in _references(prompt)]
    return max(_alike("\n".join(kept).rstrip(), each) for each in wanted)


SCORERS: MappingProxyType[str, Scorer] = MappingProxyType(
    {
        "chat": rouge_l,
        "summarising": rouge_l,
        "code_completion": code_similarity,
        "copy_editing": edit_similarity,
        "translation": chrf,
        "question_answering": contains,
        "mathematics": number,
        "retrieval_augmented": contains,
        "needle": contains,
        "humaneval": code_similarity,
    }
)
"""Which scorer a task uses."""


def scorer_for(task: str) -> Scorer:
    """The scorer of a task; a task that is not known (a user's own) is scored by ROUGE-L."""
    return SCORERS.get(task, rouge_l)


def score(prediction: str, prompt: Prompt) -> float:
    """Score an answer by its task's own scorer.

    Raises
    ------
    PromptError
        The prompt has no reference to compare with.
    """
    return scorer_for(prompt.task)(prediction, prompt)


def _references(prompt: Prompt) -> list[str]:
    """The reference first, then further wordings of it."""
    if prompt.reference is None:
        raise PromptError(f"prompt {prompt.id!r} has no reference, so its answers cannot be scored")
    answers = prompt.metadata.get("answers", ())
    answers = answers if isinstance(answers, list | tuple) else [answers]
    return [prompt.reference, *(answer for answer in answers if isinstance(answer, str) and answer.strip())]


def _accepted(prompt: Prompt) -> list[str]:
    # An empty answer would be found in any text.
    return [answer for answer in _references(prompt) if answer.strip()]


def _alike(one: str, other: str) -> float:
    return SequenceMatcher(None, one, other, autojunk=False).ratio()


def _last_number(text: str) -> Decimal | None:
    # A minus between two words or digits joins or subtracts; a full stop at the end ends the sentence.
    numbers = re.findall(r"(?:(?<![\w.)-])-)?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?", text, re.ASCII)
    return Decimal(numbers[-1].replace(",", "")) if numbers else None


def _unit(value: float) -> float:
    return min(max(value, 0.0), 1.0)
