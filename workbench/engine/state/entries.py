"""What all states that keep an entry for every token do: places, positions, ragged heads, and what was evicted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from workbench.engine.state.places import chosen, merge, settled
from workbench.engine.state.stored import Stored
from workbench.errors import WorkbenchError

if TYPE_CHECKING:
    from workbench.engine.state.protocol import KeyValueState


class Entries(Stored):
    """Base of :class:`workbench.engine.state.KeyValueState`; a subclass says how keys and values are stored.

    Parameters
    ----------
    reserve : int
        Entries to make room for beyond those that come first.
    """

    def append(self, key: Tensor, value: Tensor, positions: Tensor, rows: Sequence[int] | None = None) -> None:
        """Add entries at the end.

        Parameters
        ----------
        key, value : Tensor [batch, kv_heads, tokens, head_dim]
        positions : int Tensor [tokens]
        rows : sequence of int, optional
            Rows of the pass that the entries are of; by default all of them, in order.
        """
        self._add(key, value)
        self.written(key.shape[2], positions, rows)

    def written(self, count: int, positions: Tensor, rows: Sequence[int] | None = None) -> None:
        """``count`` entries at ``positions``, of these rows of a pass, have been stored behind the others."""
        end = self.length + count
        if self._positions is not None:
            if end > self._positions.shape[1]:
                grown = self._positions.new_zeros(len(self._positions), int(1.25 * end) + self.reserve)
                grown[:, : self.length] = self._positions[:, : self.length]
                self._positions = grown
            self._positions[:, self.length : end] = positions
        if self._valid is not None:
            self._valid = torch.cat((self._valid, self._valid.new_ones(len(self._valid), count)), 1)
        self.length = end
        self.rows.append(range(count) if rows is None else rows)

    def mark_positions(self, positions: Tensor, whole: int | None = None) -> None:
        """Write down positions [length] or [kv_heads, length] where they are not simply 0, 1, 2, …

        The first ``whole`` entries are, where that is given: cropped to them, the layer is contiguous again.
        """
        self._whole = whole
        self._positions = positions[None].clone() if positions.dim() == 1 else positions.clone()

    def pack(self) -> None:
        """Nothing: entries stay as they came."""

    def can_crop(self, count: int) -> bool:
        """True: any number of the newest entries can be dropped."""
        return True

    def crop(self, count: int) -> None:
        """Drop the last ``count`` entries."""
        self._drop(count)
        self.length -= count
        if self._whole is not None and self.length <= self._whole:
            self._positions = self._whole = None
        if self._valid is not None:
            self._valid = self._valid[:, : self.length]
        self.rows = []

    def settle(self, kept: Sequence[int]) -> None:
        """Of the entries that the last pass added keep those of the rows ``kept`` (increasing) and drop the others.

        Rows below 0 are of earlier text, and stay.
        """
        if not self.rows:
            return
        count, places, visits = settled(tuple(map(tuple, self.rows)), tuple(kept), self.device)
        if isinstance(places, int):
            self.crop(count - places)
        else:
            self.keep_newest(count, places)
        self.rows = list(visits)

    def keep_newest(self, count: int, kept: Tensor) -> None:
        """Of the last ``count`` entries keep those at ``kept`` (int Tensor, increasing) and drop the rest."""
        start = self.length - count
        self._whole = None if self._whole is None else min(self._whole, start)
        self._select_newest(start, kept)
        if self._positions is not None:
            self._positions[:, start : start + len(kept)] = self._positions[:, start + kept]
        if self._valid is not None:
            self._valid = torch.cat((self._valid[:, :start], self._valid[:, start + kept]), 1)
        self.length = start + len(kept)

    def keep(self, index: Tensor, valid: Tensor | None = None) -> None:
        """Keep only the entries at ``index`` and give the rest of the memory back.

        Parameters
        ----------
        index : int Tensor [kv_heads, kept] or [kept]
            For each KV head, which entries stay.
        valid : bool Tensor [kv_heads, kept], optional
            Where heads keep different numbers: False where ``index`` of a head names nothing, and any place may stand.
            A layer is stored as wide as its longest head.
        """
        before, heads = self.kept, self.heads
        if index.dim() == 2:
            index = index.expand(heads, -1)
        positions, held = chosen(self.positions, index), self._valid
        if held is not None:
            held = chosen(held, index)
            valid = held if valid is None else valid & held
        self._select(index)
        self.length, self._whole = index.shape[-1], None
        self._positions, self._valid = positions, None if valid is None or bool(valid.all()) else valid
        self.rows = []
        self._lost(before)

    def replace(self, places: Sequence[int]) -> None:
        """Drop the entries at ``places`` (the same for all heads) without copying the rest: the newest entries move
        into the free places. The memory stays as large as it is."""
        before = self.kept
        if self._positions is None:
            self.mark_positions(self.positions)
        self._whole, gone = None, set(places)
        remaining = self.length - len(gone)
        holes = sorted(place for place in gone if place < remaining)
        movers = [place for place in range(remaining, self.length) if place not in gone]
        if holes:
            self._move(holes, movers)
            # A single place, the common case, needs no index tensor.
            to, source = (holes[0], movers[0]) if len(holes) == 1 else (holes, movers)
            self._positions[:, to] = self._positions[:, source]
            if self._valid is not None:
                self._valid[:, to] = self._valid[:, source]
        self._drop(len(gone))
        self.length = remaining
        if self._valid is not None:
            self._valid = self._valid[:, :remaining]
        self.rows = []
        self._lost(before)

    def rewrite(
        self,
        places: slice | Tensor,
        keys: Tensor | None = None,
        values: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> None:
        """Give entries other keys, values or positions; what is None stays.

        Parameters
        ----------
        places : slice, or int Tensor [n] or [kv_heads, n]
        keys, values : Tensor [batch, kv_heads, n, head_dim], optional
        positions : int Tensor [n] or [1 or kv_heads, n], optional
            The same for all heads unless ``places`` or what is held differ from head to head.
        """
        self._write(places, keys, values)
        if positions is None:
            return
        if self._positions is None:
            self.mark_positions(self.positions)
        self._whole = None
        if isinstance(places, Tensor) and places.dim() == 2:
            self._positions = self._positions.expand(self.heads, -1).clone()
            self._positions.scatter_(1, places, positions.expand_as(places))
        else:
            self._positions[:, places] = positions

    def merge(self, groups: Tensor, weights: Tensor | None = None) -> None:
        """Let every group of entries become one, which stands at the position of its newest.

        With weights w and members i of a group, key = Σ wᵢ kᵢ / Σ wᵢ and value = Σ wᵢ vᵢ / Σ wᵢ. An entry that is alone
        in its group stays as it is stored. Heads with fewer groups than another are ragged afterwards.

        Parameters
        ----------
        groups : int Tensor [length] or [kv_heads, length]
            The group of every entry, from 0 on; -1 drops it.
        weights : Tensor of the same shape, optional
            By default all the same. Those of a group must not sum to zero.
        """
        merge(self, groups, weights)

    def take(self, other: KeyValueState) -> None:
        """Hold what another state holds, in this one's own form; only while this one is empty."""
        if other.length:
            self.append(other.keys, other.values, other.positions[0])
            if not other.contiguous:
                self.mark_positions(other.positions)
        self._valid = None if other.valid is None else other.valid.clone()
        self.evictions, self.evicted, self.rows = other.evictions, other.evicted, []
        self.pack()

    def snapshot(self) -> tuple[int, int]:
        """What :meth:`restore` goes back to, for as long as nothing is evicted."""
        return self.length, self.evictions

    def restore(self, snapshot: tuple[int, int]) -> None:
        """Drop what came after the snapshot.

        Raises
        ------
        WorkbenchError
            If something was evicted since.
        """
        length, evictions = snapshot
        if evictions != self.evictions or length > self.length:
            raise WorkbenchError("entries were evicted since the snapshot: take it after the eviction")
        self.crop(self.length - length)

    def _lost(self, before: float) -> None:
        self.evictions += 1
        self.evicted += before - self.kept

    def _copy_marks(self, other: Entries) -> None:
        """Take over everything but keys and values from a state of the same entries."""
        self.length, self.evictions, self.evicted = other.length, other.evictions, other.evicted
        self._whole = other._whole
        self._positions = None if other._positions is None else other._positions[:, : other.length].clone()
        self._valid = None if other._valid is None else other._valid.clone()
