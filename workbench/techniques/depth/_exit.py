"""What techniques share that let a token leave before the last layer: who leaves, and what later tokens find of it.

A row that leaves at a layer is answered there. In the layers above it then has no entry, or one of its stream as it
was, or it waits until a later token comes that deep and runs them with it.
"""

from __future__ import annotations

import abc
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from workbench.engine import Run
from workbench.engine.passes import Pass
from workbench.engine.slots import OpenedPolicy
from workbench.errors import SettingError
from workbench.models.device import numbers

Fill = Literal["hole", "copy", "batch"]
"""In the layers that a token left out: no keys and values; at once those of the stream that it left with (CALM); or its
own, run together with the first later token that comes as deep (batched, as in FREE and in early-exit serving)."""

Filling = Annotated[Fill, Field(description="what later tokens find in layers left out")]
"""The setting of it."""

Leaving = tuple[list[int], Tensor, Tensor | None]
"""Rows that leave, increasing, the streams [rows, width] that they are unembedded as, and their logits if known."""


def leave(rows: Sequence[int], places: Sequence[int], streams: Tensor, logits: Tensor | None) -> Leaving:
    """Those of ``rows`` at some places, with their ``streams`` [rows, width] and ``logits`` [rows, vocabulary]."""
    if not places:
        return [], streams[:0], None
    chosen = numbers(places, streams.device)
    return [rows[place] for place in places], streams[chosen], None if logits is None else logits[chosen]


class ExitPolicy(OpenedPolicy, abc.ABC):
    """Lets rows leave after some layers; the prompt runs through all of them.

    Parameters
    ----------
    run : Run
    checked : iterable of int
        Layers after which rows may leave.
    fill : Fill
    asked : iterable of int, optional
        Layers after which :meth:`passed` wants to be told too.

    Raises
    ------
    SettingError
        If a layer that is left out carries a state, which cannot be filled.
    """

    def __init__(self, run: Run, checked: Iterable[int], fill: Fill, asked: Iterable[int] = ()) -> None:
        self._last, self._fill = run.model.layers - 1, fill
        self.checked = {layer for layer in checked if 0 <= layer < self._last}
        self._asked = sorted({*self.checked, *asked, self._last})
        left_out = run.model.anatomy.blocks[min(self.checked, default=self._last) + 1 :]
        if fill != "hole" and any(block.mixer.recurrent and block.mixer.new_state() for block in left_out):
            raise SettingError(
                f"{run.model.name} has layers that carry a state, which no fill={fill} can give to a token that left "
                "them out: set fill=hole"
            )

    @abc.abstractmethod
    def leaving(self, layer: int, opened: Pass, rows: Sequence[int]) -> Leaving:
        """Which of ``rows``, tokens that have not left yet, leave after a layer that is checked."""

    def passed(self, layer: int, opened: Pass) -> None:
        """The pass goes on after a layer that was asked for."""

    def opened(self, opened_pass: Pass) -> None:
        self._pass = opened_pass

    def stretch(self, layer: int) -> int:
        return self._asked[bisect_left(self._asked, layer)]

    def next_layer(self, layer: int, x: Tensor) -> int | None:
        if layer == self._last:
            return None
        if layer in self.checked:
            if not self._pass.prompt and self._all_left(layer):
                return None
            if self._fill == "batch":
                self._pass.join_pending()
        self.passed(layer, self._pass)
        return layer + 1

    def _all_left(self, layer: int) -> bool:
        """Let rows leave; whether none is left."""
        opened = self._pass
        waiting = [row for row in opened.rows if 0 <= row < opened.count and row not in opened.answers]
        rows, streams, logits = self.leaving(layer, opened, waiting) if waiting else ([], opened.x[0, :0], None)
        if not rows:
            return False
        opened.answers.give(rows, streams, logits)
        if self._fill == "copy":
            blocks = opened.decoder.anatomy.blocks[layer + 1 :]
            # Of a block without attention nothing is remembered.
            opened.fill([block.index for block in blocks if not block.mixer.recurrent], rows)
        elif self._fill == "batch":
            opened.postpone()
        left = set(rows)
        undecided = [row for row in waiting if row not in left]
        if not undecided:
            return True
        # In a batch a row goes on with any that comes after it, as that one will see its entries.
        reach = undecided[-1] if self._fill == "batch" else -1
        stays = [row for row in opened.rows if row <= reach or row >= opened.count or row not in opened.answers]
        if len(stays) < len(opened.rows):
            opened.keep(stays)
        return False
