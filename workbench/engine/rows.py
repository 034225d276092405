"""The rows of a pass: which of them run, with what residual stream, and which have left it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from workbench.engine.relations import Relation
from workbench.engine.rotation import ropes
from workbench.engine.shelf import Shelf
from workbench.engine.visibility import Visibility
from workbench.errors import WorkbenchError
from workbench.models.device import numbers
from workbench.models.rotate import Rope

if TYPE_CHECKING:
    from workbench.engine.decoder import Decoder


class PassError(WorkbenchError):
    """Something was asked of a pass that it cannot do where it stands."""


class Rows:
    """The base of :class:`workbench.engine.running.Running`; :class:`workbench.engine.passes.Pass` documents the
    attributes."""

    decoder: Decoder
    tokens: list[int]
    relation: Relation
    start: int
    x: Tensor
    rows: Sequence[int]
    positions: Tensor
    layer: int | None
    stopped: int | None
    shelf: Shelf
    prefill: bool
    finished: bool
    _length: int | None
    _evicted: set[int]
    _carried: tuple[Tensor, Tensor, Tensor] | None
    _postponed = False

    @property
    def count(self) -> int:
        """Tokens of the pass."""
        return len(self.tokens)

    def streams(self, rows: Sequence[int]) -> Tensor:
        """Residual stream [rows, width] of rows that run or lie on the shelf.

        Raises
        ------
        PassError
            If a row does neither.
        """
        places = {row: place for place, row in enumerate(self.rows)}
        gone = [row for row in rows if row not in places and row not in self.shelf]
        if gone:
            raise PassError(f"rows {gone} neither run nor lie on the shelf: they are not of this pass, or were dropped")
        if all(row in places for row in rows):
            return self.x[0, numbers([places[row] for row in rows], self.x.device)]
        return torch.stack([self.x[0, places[row]] if row in places else self.shelf.look([row])[0] for row in rows])

    def change(self, x: Tensor) -> None:
        """Go on with another residual stream [rows, width] of the rows that run."""
        self._check_streams(x, len(self.rows))
        self.x = x[None]
        self._carried = None

    def _embed(self, rows: Sequence[int], inputs: Tensor | None = None) -> None:
        """Run these of the tokens, from before the first block on."""
        anatomy = self.decoder.anatomy
        positions = self._positions(rows)
        if inputs is None:
            tokens = numbers([self.tokens[row] for row in rows], anatomy.device)[None]
            given = self.decoder.embeddings if min(self.tokens) < 0 else None
            inputs = anatomy.embed(tokens, positions, given)[0]
        self._arrange(inputs[None], rows, positions)

    def _positions(self, rows: Sequence[int]) -> Tensor:
        return self.relation.positions(rows, self.start, self.decoder.anatomy.device)

    def _arrange(self, x: Tensor, rows: Sequence[int], positions: Tensor | None = None) -> None:
        """From here on these rows run, whose residual stream is ``x`` [1, rows, width]."""
        self.x, self.rows = x, rows
        self.positions = self._positions(rows) if positions is None else positions
        self.tables = self._tables(self.positions)
        self.visibility = Visibility(
            self.relation, rows, self.start, self.positions, self._evicted, self.decoder.repeated
        )
        self._straight = rows[-1] - rows[0] == len(rows) - 1
        self._carried = None

    def _merge(self, rows: Sequence[int], x: Tensor) -> None:
        """Let these rows [rows, width] run beside the others."""
        both = [*self.rows, *rows]
        joined = torch.cat((self.x, x[None]), 1)
        order = sorted(range(len(both)), key=both.__getitem__)
        if order != list(range(len(both))):
            joined = joined[:, numbers(order, joined.device)]
        self._arrange(joined, [both[place] for place in order])

    def _beside(self, x: Tensor, rows: Sequence[int], layer: int | None, stopped: int | None) -> None:
        """Bring together the rows that were added and those, ``x`` [1, rows, width], that stood before ``layer``; where
        a depth policy let either leave sooner than the others, they lie on the shelf."""
        if self.stopped == stopped:
            self._arrange(torch.cat((x, self.x), 1), [*rows, *self.rows])
        elif self.stopped is None:
            self.shelf.put(rows, x[0], stopped)
            return
        else:
            self.shelf.put(self.rows, self.x[0], self.stopped)
            self._arrange(x, rows)
        self.layer, self.stopped = layer, stopped

    def _tables(self, positions: Tensor) -> dict[str, Rope]:
        below = self.start + self.relation.count
        return ropes(self.decoder.anatomy, self.decoder.cache, positions, self._length, below)

    def _refuse_ended(self) -> None:
        if self.finished or self.layer is None:
            raise PassError("this pass has run to its end: rows change between blocks")

    def _check_streams(self, x: Tensor, rows: int) -> None:
        asked = rows, self.decoder.anatomy.width
        if tuple(x.shape) != asked:
            raise PassError(f"the residual stream of {rows} rows is a tensor {list(asked)}, not {list(x.shape)}")

    def _text_rows(self, positions: Sequence[int]) -> list[int]:
        """Numbers of rows of the text before the pass."""
        rows = [position - self.start for position in positions]
        if not rows or rows[-1] >= 0 or rows != sorted(set(rows)):
            raise PassError(f"{list(positions)} are no increasing positions of the {self.start:,} tokens before it")
        return rows

    def _put_down(self) -> None:
        """Sort out who has not run to the end: pending rows go to the decoder, the pass's own are unembedded as they
        stand, and rows of earlier text are not unembedded at all."""
        if not self.shelf and self.rows and self.rows[0] >= 0 and not (self._postponed and self.stopped is not None):
            return
        pending, start = self.decoder.shelf, self.start

        def waits(row: int) -> bool:
            return row < 0 or (self._postponed and row < self.count)

        if self.stopped is not None:
            places = [place for place, row in enumerate(self.rows) if waits(row)]
            waiting = self.x[0, numbers(places, self.x.device)]
            pending.put([start + self.rows[place] for place in places], waiting, self.stopped)
        for row in filter(waits, self.shelf.rows()):
            pending.put([start + row], self.shelf.look([row]), self.shelf.layer(row))
        own = [row for row in self.shelf.rows() if row >= 0]
        places = [place for place, row in enumerate(self.rows) if row >= 0]
        if own or len(places) < len(self.rows):
            self.x, self.rows = self.x[:, numbers(places, self.x.device)], [self.rows[place] for place in places]
            if own:
                self._merge(own, self.shelf.take(own))

    def _check_wanted(self, logits: str) -> None:
        """Refuse to give logits of tokens whose rows were dropped for good; a prompt gives those that are left."""
        if logits == "none" or (len(self.rows) >= self.count and self.rows[0] == 0 and self._straight):
            return
        left = {*self.rows, *self.shelf.rows()}
        asked = range(self.count - 1, self.count) if logits == "last" or self.prefill else range(self.count)
        gone = [row for row in asked if row not in left]
        if gone:
            raise PassError(
                f"rows {gone} were dropped for good, and their logits are asked for: let keep() shelve them"
            )
