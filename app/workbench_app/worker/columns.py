"""The columns of a race on their way to the page: what is new of each, put together again on the other side."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from workbench_app.race import Column

_FACTS = (
    "index", "phase", "tokens", "drafted", "accepted", "layers", "keys_read", "keys_kept", "model", "forwards",
    "seconds", "draft_seconds", "verify_seconds", "flops", "bytes", "cache_bytes",
)  # fmt: skip


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
            facts = [{name: getattr(step, name) for name in _FACTS} for step in steps]
            taken.append({"steps": facts, "pieces": pieces, "state": column.state, "problem": column.problem})
        return taken


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
