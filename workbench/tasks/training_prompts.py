"""Prompts to train small parts on: none of them shares a passage with the prompts that anything is evaluated on."""

from __future__ import annotations

from importlib.resources import files
from itertools import zip_longest

from workbench.errors import PromptError
from workbench.tasks.prompt_file import parse_prompts
from workbench.tasks.prompts import Prompt, prompt_of

__all__ = ["TRAINING_TASKS", "training_prompts"]

TRAINING_TASKS = (
    "chat", "translation", "summarising", "question_answering", "mathematics", "retrieval_augmented", "copy_editing",
    "code_completion",
)  # fmt: skip
"""The tasks that have training prompts."""


def training_prompts(task: str | None = None, limit: int | None = None) -> list[Prompt]:
    """Prompts whose answers, written by the model itself, are what trained parts learn from.

    They come from other pages, books and modules of the sources of the evaluation prompts (`load_prompts`) and ask in
    other words. A test holds that no training prompt shares a run of twelve words with an evaluation prompt or its
    reference. Only mathematics has references.

    Parameters
    ----------
    task
        One of `TRAINING_TASKS`; by default all of them, one task after another in turn, so that a small `limit` sees
        every task.
    limit
        At most this many, from the start.

    Raises
    ------
    PromptError
        There are no training prompts for the task, or `limit` is not positive.
    """
    if limit is not None and limit < 1:
        raise PromptError(f"limit must be 1 or more, not {limit}")
    if task is not None and task not in TRAINING_TASKS:
        raise PromptError(f"no training prompts for {task!r}; there are some for {', '.join(TRAINING_TASKS)}")
    turns = zip_longest(*(_read(name) for name in ([task] if task else TRAINING_TASKS)))
    return [prompt for turn in turns for prompt in turn if prompt is not None][:limit]


def _read(task: str) -> list[Prompt]:
    place = files("workbench_data").joinpath("prompts", "training", f"{task}.jsonl")
    return parse_prompts(place.read_text(encoding="utf-8"), f"training/{task}", prompt_of)
