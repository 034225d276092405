"""Real prompts and scored tasks, each with source and licence. Importing this loads neither torch nor transformers."""

from workbench.tasks import humaneval, scorers
from workbench.tasks.humaneval import MissingPackage
from workbench.tasks.needle import found, needle
from workbench.tasks.prompts import (
    Prompt,
    PromptFileError,
    TaskInfo,
    encode_prompt,
    format_prompt,
    list_tasks,
    load_prompts,
    write_prompts,
)
from workbench.tasks.scorers import SCORERS, score, scorer_for

__all__ = [
    "SCORERS",
    "MissingPackage",
    "Prompt",
    "PromptFileError",
    "TaskInfo",
    "encode_prompt",
    "format_prompt",
    "found",
    "humaneval",
    "list_tasks",
    "load_prompts",
    "needle",
    "score",
    "scorer_for",
    "scorers",
    "write_prompts",
]
