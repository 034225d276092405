"""Spec-Bench: reads the question file of that benchmark, which the user points at. Nothing of it is copied here.

Paper: Xia et al., "Unlocking Efficiency in Large Language Model Inference: A Comprehensive Survey of Speculative
Decoding", 2024, arXiv 2401.07851.
Source: the file ``question.jsonl`` of the benchmark. Each line has a ``question_id``, a ``category``, the ``turns`` of
the user and mostly a ``reference``: a text, a list of texts, or a list of lists of texts, as those of the category
``rag``. Of a question with one turn all of them are wordings of its answer; of a conversation each is one turn's. The
question files of MT-Bench (Zheng et al., 2023, arXiv 2306.05685) have the
same fields and are read too.
Deviates: the benchmark counts accepted tokens and speed only; here an answer with a reference is scored as well, by the
task that its category stands for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from workbench.tasks.prompt import Prompt
from workbench.tasks.prompt_file import PromptFileError, check_text, parse_prompts, read_text
from workbench.tasks.selection import stratified

__all__ = ["load_spec_bench", "question"]

# The other categories are those of MT-Bench: conversations of two turns.
_TASKS = {
    "translation": "translation",
    "summarization": "summarising",
    "qa": "question_answering",
    "math_reasoning": "mathematics",
    "rag": "retrieval_augmented",
}


def load_spec_bench(path: str | Path, limit: int | None = None) -> list[Prompt]:
    """Read a ``question.jsonl`` of Spec-Bench.

    Parameters
    ----------
    path
        The file.
    limit
        At most this many questions: some of every category, in the file's order
        (:func:`workbench.tasks.selection.stratified`).

    Returns
    -------
    list of Prompt
        One for each question, in the file's order: its first turn, with all the turns in the metadata's ``turns``.
        `workbench.tasks.next_turn` and `workbench.tasks.unroll` go on from there. The category is in the metadata
        and chooses the task; a first turn's reference is the prompt's, further wordings of it are in ``answers``, and
        the references of later turns in ``references``.

    Raises
    ------
    PromptFileError
        There is no such file, or it cannot be read, or none of its lines can.
    PromptError
        `limit` is not positive.

    Warns
    -----
    PromptFileWarning
        Lines were left out; each is named, with its number: it is bad JSON, lacks ``question_id``, ``category`` or
        ``turns``, has one of the wrong type or an empty turn, or repeats an id.
    """
    path = Path(path)
    if not path.exists():
        raise PromptFileError(f"no Spec-Bench question file at {path}")
    return stratified(parse_prompts(read_text(path), str(path), question), limit)


def question(record: dict[str, Any], place: str) -> Prompt:
    """The first turn of one line's question; `place` names the line in messages.

    Raises
    ------
    PromptFileError
        As `load_spec_bench` says.
    """
    for name in ("question_id", "category", "turns"):
        if name not in record:
            raise PromptFileError(f"{place}: the field {name!r} is missing")
    identity, category = record["question_id"], record["category"]
    if isinstance(identity, bool) or not isinstance(identity, int | str) or not str(identity).strip():
        raise PromptFileError(f"{place}: 'question_id' must be a number or text")
    if not isinstance(category, str):
        raise PromptFileError(f"{place}: 'category' must be text, not {type(category).__name__}")
    turns = _texts(record["turns"], "turns", place)
    if not turns or not all(turn.strip() for turn in turns):
        raise PromptFileError(f"{place}: 'turns' must hold at least one text, and none that is empty")
    references = _references(record.get("reference"), place)
    for name, text in (("question_id", str(identity)), ("category", category)):
        check_text(text, name, place)
    metadata: dict[str, Any] = {"category": category}
    if len(turns) > 1:
        metadata |= {"turns": turns, "references": [texts[0] if len(texts) == 1 else texts for texts in references]}
        wordings = references[0] if references else []
    else:
        wordings = [text for texts in references for text in texts]
    first, *others = dict.fromkeys(text for text in wordings if text.strip()) or [None]
    if others:
        metadata["answers"] = others
    return Prompt(str(identity), turns[0], first, _TASKS.get(category, "chat"), metadata=metadata)


def _references(value: Any, place: str) -> list[list[str]]:
    """Each as a list of wordings, whichever way the file writes it."""
    if isinstance(value, str | None):
        value = [value] if value else []
    if not isinstance(value, list):
        raise PromptFileError(f"{place}: 'reference' must be a text, a list of texts or a list of lists of texts")
    return [_texts([each] if isinstance(each, str) else each, "reference", place) for each in value]


def _texts(value: Any, name: str, place: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise PromptFileError(f"{place}: {name!r} must be a list of texts")
    for text in value:
        check_text(text, name, place)
    return value
