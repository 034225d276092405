"""The columns of a race on their way to the page: what is new of each, put together again on the other side."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from workbench_app.race import Column

_LARGE = ("nodes", "logprobs", "logits")
"""Facts of a step that the page does not show and that would make its messages long."""


class News:
    """What was not yet said of some columns."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self._columns = columns
        self._steps, self._pieces = [0] * len(columns), [0] * len(columns)

    def take(self) -> list[dict[str, Any]]:
        """One entry a column: its state, and the steps and pieces that came since the last time."""
        taken = []
        for place, column in enumerate(self._columns):
            steps, pieces = column.steps[self._steps[place] :], column.pieces[self._pieces[place] :]
            self._steps[place] += len(steps)
            self._pieces[place] += len(pieces)
            taken.append(
                {"steps": list(map(_facts, steps)), "pieces": pieces, "state": column.state, "problem": column.problem}
            )
        return taken


def _facts(step: Any) -> dict[str, Any]:
    names = (field.name for field in dataclasses.fields(step))
    return {name: getattr(step, name) for name in names if name not in _LARGE}


def add(columns: Sequence[Column], news: Sequence[dict[str, Any]]) -> None:
    """Bring columns up to what :meth:`News.take` said; their steps have the facts of a step and no methods."""
    for column, new in zip(columns, news, strict=True):
        steps = [SimpleNamespace(**facts) for facts in new["steps"]]
        column.steps.extend(steps)
        column.tokens.extend(token for step in steps for token in step.tokens)
        column.pieces.extend(new["pieces"])
        column.state, column.problem = new["state"], new["problem"]


def fail(columns: Sequence[Column], problem: str) -> None:
    """Mark the columns that were not over as failed; what they had written stays."""
    for column in columns:
        if not column.over:
            column.state, column.problem = "failed", problem
