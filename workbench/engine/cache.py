"""Key-value caches that really shrink, can be cropped, and know how many bytes they hold."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class LayerCache:
    """Keys and values of one layer in preallocated buffers.

    The order of the entries carries no meaning, except that the newest entries stand last until the next eviction, so
    that they can be cropped.

    Attributes
    ----------
    length : int
        Entries held.
    rows : list of sequence of int
        For every time that the last pass came by, a repeated layer's too, the rows of the pass whose entries it added.
    evictions : int
        How often :meth:`keep` or :meth:`replace` dropped something: places mean the same entries as long as it stays.
    valid : bool Tensor [kv_heads, length] or None
        Which entries of each head are any; None where all are.
    """

    valid: Tensor | None = None

    def __init__(self, reserve: int) -> None:
        self._keys: Tensor | None = None
        self._values: Tensor | None = None
        self._positions: Tensor | None = None
        self.reserve = reserve
        self.length = 0
        self.rows: list[Sequence[int]] = []
        self.evictions = 0

    @property
    def appended(self) -> int:
        """Entries that the last pass added."""
        return sum(map(len, self.rows))

    @property
    def keys(self) -> Tensor:
        """Tensor [batch, kv_heads, length, head_dim], a view: keys as they were rotated when they came."""
        return self._keys[:, :, : self.length]

    @property
    def values(self) -> Tensor:
        """Tensor [batch, kv_heads, length, head_dim], a view."""
        return self._values[:, :, : self.length]

    @property
    def positions(self) -> Tensor:
        """int Tensor [kv_heads or 1, length]: position in the text of every entry."""
        if self._positions is None:
            return torch.arange(self.length, device=self._keys.device)[None]
        return self._positions[:, : self.length]

    @property
    def contiguous(self) -> bool:
        """Whether the entries are positions 0 … length - 1 in order: nothing was evicted or left out."""
        return self._positions is None

    @property
    def capacity(self) -> int:
        return 0 if self._keys is None else self._keys.shape[2]

    @property
    def bytes(self) -> int:
        """Bytes allocated for keys and values."""
        return 0 if self._keys is None else 2 * self._keys.numel() * self._keys.element_size()

    def append(self, key: Tensor, value: Tensor, positions: Tensor, rows: Sequence[int] | None = None) -> None:
        """Add entries at the end.

        Parameters
        ----------
        key, value : Tensor [batch, kv_heads, tokens, head_dim]
        positions : int Tensor [tokens]
        rows : sequence of int, optional
            Rows of the pass that the entries are of; by default all of them, in order.
        """
        count = key.shape[2]
        end = self.length + count
        if end > self.capacity:
            self._allocate(key, int(1.25 * end) if self.length else end + self.reserve)
        self._keys.narrow(2, self.length, count).copy_(key)
        self._values.narrow(2, self.length, count).copy_(value)
        if self._positions is not None:
            self._positions[:, self.length : end] = positions
        self.length = end
        self.rows.append(range(count) if rows is None else rows)

    def copy(self, reserve: int) -> LayerCache:
        """The same entries in buffers of their own, with room for ``reserve`` more."""
        made = LayerCache(reserve)
        if self._keys is not None:
            made._allocate(self._keys, self.length + reserve)
            made.length = self.length
            made._keys[:, :, : self.length] = self.keys
            made._values[:, :, : self.length] = self.values
            if self._positions is not None:
                made.mark_positions(self.positions)
        return made

    def mark_positions(self, positions: Tensor) -> None:
        """Write down positions [length] or [kv_heads, length] where they are not simply 0, 1, 2, …"""
        rows = positions.shape[0] if positions.dim() == 2 else 1
        self._positions = positions.new_zeros(rows, self.capacity)
        self._positions[:, : self.length] = positions

    def crop(self, count: int) -> None:
        """Drop the last ``count`` entries."""
        self.length -= count
        self.rows = []

    def settle(self, kept: Sequence[int]) -> None:
        """Of the entries that the last pass added keep those of the rows ``kept`` (increasing) and drop the others.

        Rows below 0 are of earlier text, and stay.
        """
        rows = [row for each in self.rows for row in each]
        if not rows:
            return
        new = {row: row for row in rows if row < 0} | {row: place for place, row in enumerate(kept)}
        places = [place for place, row in enumerate(rows) if row in new]
        if places == list(range(len(places))):
            self.crop(len(rows) - len(places))
        else:
            self.keep_newest(len(rows), torch.tensor(places, device=self._keys.device))
        self.rows = [[new[row] for row in each if row in new] for each in self.rows]

    def keep_newest(self, count: int, kept: Tensor) -> None:
        """Of the last ``count`` entries keep those at ``kept`` (int Tensor, increasing) and drop the rest."""
        start = self.length - count
        for buffer in (self._keys, self._values):
            tail = buffer.narrow(2, start, count).index_select(2, kept)
            buffer.narrow(2, start, len(kept)).copy_(tail)
        if self._positions is not None:
            self._positions[:, start : start + len(kept)] = self._positions[:, start + kept]
        self.length = start + len(kept)

    def keep(self, index: Tensor) -> None:
        """Keep only the entries at ``index`` and give the rest of the memory back.

        Parameters
        ----------
        index : int Tensor [kv_heads, kept] or [kept]
            For each KV head, which entries stay; every head keeps as many.
        """
        keys, values, positions = self.keys, self.values, self.positions
        if index.dim() == 1:
            positions = positions.index_select(1, index)
            kept_keys, kept_values = keys.index_select(2, index), values.index_select(2, index)
        else:
            index = index.expand(keys.shape[1], -1)
            gather = index[None, :, :, None].expand(keys.shape[0], -1, -1, keys.shape[-1])
            positions = positions.expand(keys.shape[1], -1).gather(1, index)
            kept_keys, kept_values = keys.gather(2, gather), values.gather(2, gather)
        kept = kept_keys.shape[2]
        # Let go of the old buffers before the new ones are made, so that both never stand beside each other in full.
        del keys, values
        self._keys = self._values = self._positions = None
        self.length = 0
        self._allocate(kept_keys, kept + self.reserve)
        self._keys[:, :, :kept] = kept_keys
        self._values[:, :, :kept] = kept_values
        self.length = kept
        self.mark_positions(positions)
        self.rows = []
        self.evictions += 1

    def replace(self, places: Sequence[int]) -> None:
        """Drop the entries at ``places`` (the same for all heads) without copying the rest: the newest entries move
        into the free places. The buffer stays as large as it is."""
        if self._positions is None:
            self.mark_positions(self.positions)
        gone = set(places)
        remaining = self.length - len(gone)
        holes = sorted(place for place in gone if place < remaining)
        movers = [place for place in range(remaining, self.length) if place not in gone]
        if holes:
            # A single place, the common case, needs no index tensor.
            to, source = (holes[0], movers[0]) if len(holes) == 1 else (holes, movers)
            for buffer in (self._keys, self._values):
                buffer[:, :, to] = buffer[:, :, source]
            self._positions[:, to] = self._positions[:, source]
        self.length = remaining
        self.rows = []
        self.evictions += 1

    def _allocate(self, like: Tensor, capacity: int) -> None:
        batch, heads, _, width = like.shape
        keys, values = (like.new_empty(batch, heads, capacity, width) for _ in range(2))
        if self.length:
            keys[:, :, : self.length] = self.keys
            values[:, :, : self.length] = self.values
        if self._positions is not None:
            grown = self._positions.new_zeros(self._positions.shape[0], capacity)
            grown[:, : self.length] = self._positions[:, : self.length]
            self._positions = grown
        self._keys, self._values = keys, values


class KeyValueCache:
    """The caches of all layers of one model, and how far in the text they are.

    Parameters
    ----------
    layers : int
    reserve : int
        Entries to make room for beyond those that come first: the tokens still to be generated.

    Attributes
    ----------
    length : int
        Tokens of the text that have been through the model; evicted ones count.
    read_as : int
        Tokens of the text that the first of them were read as a part of: where a model has rotary factors for short and
        for long texts, they decide which of them all keys are rotated with.
    peak_bytes : int
        The most that was ever allocated.
    """

    def __init__(self, layers: int, reserve: int) -> None:
        self.layers = [LayerCache(reserve) for _ in range(layers)]
        self.length = self.read_as = 0
        self.peak_bytes = 0

    def __repr__(self) -> str:
        return f"<KeyValueCache of {len(self.layers)} layers after {self.length:,} tokens: {self.bytes:,} bytes>"

    def copy(self, reserve: int) -> KeyValueCache:
        """A cache of the same text that shares no memory with this one, with room for ``reserve`` more tokens."""
        made = KeyValueCache(0, reserve)
        made.layers = [layer.copy(reserve) for layer in self.layers]
        made.length, made.read_as = self.length, self.read_as
        made.note_peak()
        return made

    @property
    def complete(self) -> bool:
        """Whether every layer holds every token: nothing was evicted or left out."""
        return all(layer.contiguous and layer.length == self.length for layer in self.layers)

    @property
    def bytes(self) -> int:
        """Bytes allocated now."""
        return sum(layer.bytes for layer in self.layers)

    def note_peak(self) -> int:
        """Bytes allocated now, remembered if it is the most so far."""
        held = self.bytes
        self.peak_bytes = max(self.peak_bytes, held)
        return held

    def keys_kept(self) -> tuple[int, ...]:
        """Entries of every layer."""
        return tuple(layer.length for layer in self.layers)

    def commit(self, passed: int, kept: Sequence[int]) -> None:
        """After a verification of ``passed`` tokens keep those at places ``kept`` (increasing) and drop the others, and
        all lookahead rows with them."""
        for layer in self.layers:
            layer.settle(kept)
        self.length += len(kept) - passed

    def crop_to(self, length: int) -> None:
        """Forget every token from ``length`` on; only for caches from which nothing was evicted."""
        for layer in self.layers:
            layer.crop(max(0, layer.length - length))
        self.length = length
