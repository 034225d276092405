"""Recipes run side by side on one prompt, each at its own pace, beside the baseline."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import Any

import workbench as wb
from workbench.settings import spell
from workbench_app.plain import message

BASELINE = "baseline"


@dataclass
class Column:
    """One recipe and what it has done so far.

    Attributes
    ----------
    name : str
        Specification of the recipe, ``baseline`` if it is empty.
    techniques : list of Technique
    steps : list of Step
    tokens, pieces : list
        Token ids, and the text that each added; empty for one that only begins a character.
    state : {"waiting", "running", "done", "partial", "failed"}
    problem : str
        Why it failed.
    """

    techniques: list[Any]
    steps: list[Any] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)
    state: str = "waiting"
    problem: str = ""

    @property
    def name(self) -> str:
        return "+".join(spell(each) for each in self.techniques) or BASELINE

    @property
    def exact(self) -> bool:
        """Whether every technique is declared exact."""
        return all(each.exact for each in self.techniques)

    @property
    def seconds(self) -> float:
        """Time that its own steps took [s]."""
        return sum(step.seconds for step in self.steps)

    @property
    def over(self) -> bool:
        return self.state in ("done", "partial", "failed")


@dataclass
class Race:
    """Columns that run on one prompt; the first is the baseline.

    The column that has used the least time goes next, so each text grows at the speed of its own recipe, while only one
    of them computes and no step is timed against another.
    """

    model: Any
    prompt: list[int]
    columns: list[Column]
    options: dict[str, Any]
    stop: threading.Event

    @property
    def baseline(self) -> Column:
        return self.columns[0]

    @property
    def alone(self) -> bool:
        """Whether columns must run one after the other, because one of them changes the weights that all share."""
        return any("weights" in each.slots for column in self.columns for each in column.techniques)

    def turns(self) -> Iterator[Column]:
        """Run to the end, and yield the column that took each step, and each column once more when it is over."""
        with ExitStack() as stack:
            streams: dict[int, tuple[Iterator[Any], Any]] = {}
            while waiting := [column for column in self.columns if not column.over]:
                column = waiting[0] if self.alone else min(waiting, key=lambda each: each.seconds)
                self._step(column, streams, stack)
                yield column

    def _step(self, column: Column, streams: dict[int, tuple[Iterator[Any], Any]], stack: ExitStack) -> None:
        try:
            if id(column) not in streams:
                options = {**self.options, "cancel": self.stop}
                stream = wb.generate(self.model, self.prompt, column.techniques, **options)
                streams[id(column)] = stack.enter_context(closing(stream)), self.model.detokeniser()
                column.state = "running"
            stream, text = streams[id(column)]
            step = next(stream, None)
        except Exception as error:
            column.state, column.problem = "failed", message(error)
            return
        if step is None:
            if column.pieces:
                column.pieces[-1] += text.flush()
            column.state = "partial" if self.stop.is_set() else "done"
        else:
            column.steps.append(step)
            column.tokens.extend(step.tokens)
            column.pieces.extend(map(text.add, step.tokens))


def first_difference(tokens: Sequence[int], other: Sequence[int], finished: bool) -> int | None:
    """Place of the first token that differs; where one text ends before the other only once both are finished."""
    for place, (mine, theirs) in enumerate(zip(tokens, other)):
        if mine != theirs:
            return place
    shorter = min(len(tokens), len(other))
    return shorter if finished and len(tokens) != len(other) else None
