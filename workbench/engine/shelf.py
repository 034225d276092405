"""Rows that left a pass before its end: their residual stream, and the layer that they would have run next."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


class Shelf:
    """Rows by their number: in a pass their row, in a decoder their place in the text.

    Notes
    -----
    A row takes ``width`` numbers, a hundredth or less of what its keys and values in all layers take.
    """

    def __init__(self) -> None:
        self._rows: dict[int, tuple[int, Tensor]] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, row: int) -> bool:
        return row in self._rows

    def __repr__(self) -> str:
        return f"<Shelf: rows {', '.join(f'{row} before layer {self.layer(row)}' for row in self.rows())}>"

    def rows(self, layer: int | None = None) -> list[int]:
        """Numbers, increasing; with ``layer`` those that stopped before it."""
        return sorted(row for row, (stopped, _) in self._rows.items() if layer is None or stopped == layer)

    def layer(self, row: int) -> int:
        """The layer that a row would have run next."""
        return self._rows[row][0]

    def look(self, rows: Sequence[int]) -> Tensor:
        """Residual stream [rows, width], which stays on the shelf."""
        return torch.stack([self._rows[row][1] for row in rows])

    def put(self, rows: Iterable[int], x: Tensor, layer: int) -> None:
        """Put rows [rows, width] down that would have run ``layer`` next."""
        # A row of its own: a view would keep all those alive that were put down together.
        self._rows.update((row, (layer, each.clone())) for row, each in zip(rows, x))

    def take(self, rows: Sequence[int]) -> Tensor:
        """Residual stream [rows, width] of rows, which leave the shelf."""
        taken = self.look(rows)
        for row in rows:
            del self._rows[row]
        return taken

    def settle(self, first: int, kept: Sequence[int]) -> None:
        """Of the rows from ``first`` on keep those at the distances ``kept`` from it, numbered anew, and drop the
        others."""
        new = {first + row: first + place for place, row in enumerate(kept)}
        self._rows = {new.get(row, row): each for row, each in self._rows.items() if row < first or row in new}

    def snapshot(self) -> dict[int, tuple[int, Tensor]]:
        """What :meth:`restore` goes back to."""
        return dict(self._rows)

    def restore(self, snapshot: dict[int, tuple[int, Tensor]]) -> None:
        """Hold what was held at the snapshot."""
        self._rows = dict(snapshot)

    def crop(self, length: int) -> None:
        """Forget the rows from number ``length`` on."""
        self._rows = {row: each for row, each in self._rows.items() if row < length}
