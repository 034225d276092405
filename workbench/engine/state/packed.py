"""Older entries in another form or place, the newest as they came."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import ClassVar, Self

import torch
from torch import Tensor

from workbench.engine.state.copies import twin
from workbench.engine.state.dense import LayerCache
from workbench.engine.state.entries import Entries
from workbench.engine.state.places import at
from workbench.models.device import numbers

Columns = dict[str, Tensor]
KINDS = ("keys", "values")


class PackedState(Entries):
    """Base of stores that encode: quantised ones, ones in the host's memory, or both. A subclass encodes and decodes.

    The newest entries stay as they came until at least ``tail + stride`` are together; then ``stride`` of them at a
    time, or a multiple of it, are encoded. It happens after a pass of the prompt, and before the first entries of
    any other: never to drafted tokens that may be dropped. With ``room`` no draft reaches beyond the next time, so
    that a token reads what it would have read alone. Of a prompt that is read in chunks each reads those before it as
    they are encoded.

    Parameters
    ----------
    reserve : int
    tail : int
        Newest entries that are never encoded.
    stride : int
        Entries that are encoded together.

    Attributes
    ----------
    packed : int
        Entries that are encoded; they stand first.
    label : str
        Of the form, for :meth:`bytes_by`: ``"4-bit"``.
    shared : tuple of str
        Attributes of a subclass that its copies share, as nothing changes them: a codebook, say.
    independent : bool
        Whether every encoded tensor has one slice of dim 2 for every entry, so that entries can be chosen, moved and
        rewritten without decoding the others. Where several share something (a scale of ``stride`` keys), everything
        is decoded for that, and encoded anew.
    """

    label: ClassVar[str]
    shared: ClassVar[tuple[str, ...]] = ()
    independent: bool = True

    def __init__(self, reserve: int, tail: int = 32, stride: int = 32) -> None:
        super().__init__(reserve)
        self.tail, self.stride = tail, stride
        self.packed = 0
        self._columns: dict[str, Columns] = {}
        self._newest = LayerCache(stride)

    @abc.abstractmethod
    def encode(self, kind: str, entries: Tensor) -> Columns:
        """Tensors [batch, kv_heads, any, …], joined along dim 2 with those before.

        Parameters
        ----------
        kind : {"keys", "values"}
        entries : Tensor [batch, kv_heads, n, head_dim]
            Where entries are not ``independent``, n is a multiple of ``stride``.
        """

    @abc.abstractmethod
    def decode(self, kind: str, columns: Columns) -> Tensor:
        """Entries [batch, kv_heads, n, head_dim], where the model computes and in its dtype."""

    @property
    def form(self) -> str:
        return f"{self.label}, {self.stride} at a time, {self.tail} newest as they came"

    @property
    def device(self) -> torch.device:
        return self._newest.device

    @property
    def heads(self) -> int:
        return self._newest.heads

    @property
    def keys(self) -> Tensor:
        """Tensor [batch, kv_heads, length, head_dim], made on the spot."""
        return self._entries("keys", 0, self.length)

    @property
    def values(self) -> Tensor:
        """Tensor [batch, kv_heads, length, head_dim], made on the spot."""
        return self._entries("values", 0, self.length)

    @property
    def room(self) -> int:
        """Tokens that a pass may read ahead before entries are encoded that a token alone would have read encoded."""
        due = self._due()
        return max(0, self.packed + due + self.tail + self.stride - 1 - self.length)

    def bytes_by(self) -> dict[tuple[str, str], int]:
        held = dict(self._newest.bytes_by())
        for kind, columns in self._columns.items():
            for column in columns.values():
                place = f"{kind} {self.label}", column.device.type
                held[place] = held.get(place, 0) + column.numel() * column.element_size()
        return held

    @property
    def entry_bytes(self) -> float:
        encoded = sum(
            column.numel() * column.element_size() for columns in self._columns.values() for column in columns.values()
        )
        newest = self._newest.length * self._newest.entry_bytes
        return (encoded + newest) / self.length if self.length else 0.0

    def append(self, key: Tensor, value: Tensor, positions: Tensor, rows: Sequence[int] | None = None) -> None:
        """Add entries at the end; before the first of a pass, encode what is due."""
        if not self.rows:
            self.pack()
        super().append(key, value, positions, rows)

    def pack(self) -> None:
        """Encode what is due."""
        due = self._due()
        if due:
            self._encode(due)

    def read(self, start: int, stop: int) -> tuple[Tensor, Tensor, Tensor]:
        """Keys, values and positions of the entries from ``start`` to ``stop``; only these are decoded."""
        keys, values = (self._entries(kind, start, stop) for kind in KINDS)
        return keys, values, self.positions[:, start:stop]

    def gather(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the entries at ``index`` [1 or kv_heads, chosen]; only these are decoded."""
        if not self.packed or not self.independent:
            return super().gather(index)
        encoded, newest = index.clamp(max=self.packed - 1), (index - self.packed).clamp(min=0)
        both = []
        for kind in KINDS:
            entries = self.decode(kind, {name: at(each, encoded) for name, each in self._columns[kind].items()})
            if self._newest.length:
                tail = at(getattr(self._newest, kind), newest)
                entries = entries.where((index < self.packed)[None, :, :, None], tail)
            both.append(entries)
        return both[0], both[1]

    def copy(self, reserve: int) -> Self:
        """The same entries in memory of their own, as they are encoded.

        So are all tensors, lists, dictionaries and sets that a subclass adds, but for those that it names in
        ``shared``. Of another object that changes it overrides this method: ``made = super().copy(reserve)``, then
        ``made.sketch = self.sketch.copy()``.
        """
        made = twin(self, self.shared)
        made.reserve, made.rows = reserve, []
        made._copy_marks(self)
        made._newest = self._newest.copy(self.stride)
        return made

    def _due(self) -> int:
        return max(0, self.length - self.packed - self.tail) // self.stride * self.stride

    def _entries(self, kind: str, start: int, stop: int) -> Tensor:
        newest = getattr(self._newest, kind)[:, :, max(0, start - self.packed) : max(0, stop - self.packed)]
        if start >= self.packed:
            return newest
        step = 1 if self.independent else self.stride
        first, last = start // step * step, min(self.packed, -(-stop // step) * step)
        columns = {}
        for name, each in self._columns[kind].items():
            share = self.packed // each.shape[2]
            columns[name] = each[:, :, first // share : -(-last // share)]
        encoded = self.decode(kind, columns)[:, :, start - first : min(stop, self.packed) - first]
        return torch.cat((encoded, newest), 2) if newest.shape[2] else encoded

    def _encode(self, count: int) -> None:
        """Encode the first ``count`` of the newest."""
        newest = self._newest
        for kind in KINDS:
            made = self.encode(kind, getattr(newest, kind)[:, :, :count])
            before = self._columns.get(kind)
            self._columns[kind] = (
                made if before is None else {name: torch.cat((before[name], made[name]), 2) for name in made}
            )
        self._newest = LayerCache.of(newest.keys[:, :, count:], newest.values[:, :, count:], self.stride)
        self.packed += count

    def _decode(self) -> None:
        """Let everything be as if it had just come."""
        if self.packed:
            self._newest = LayerCache.of(self.keys, self.values, self.stride)
            self.packed, self._columns = 0, {}

    def _add(self, key: Tensor, value: Tensor) -> None:
        self._newest.append(key, value, torch.arange(key.shape[2], device=key.device))
        self._newest.rows = []

    def _drop(self, count: int) -> None:
        beyond = count - self._newest.length
        if beyond > 0 and not self.independent:
            self._decode()
            beyond = 0
        if beyond > 0:
            self.packed -= beyond
            self._columns = {
                kind: {name: each[:, :, : self.packed].clone() for name, each in columns.items()}
                for kind, columns in self._columns.items()
            }
        self._newest.crop(min(count, self._newest.length))

    def _select(self, index: Tensor) -> None:
        if self.packed and self.independent:
            # A head's entries may stand in both parts, so that there must be one.
            self._encode(self._newest.length)
            index = index[None] if index.dim() == 1 else index
            for columns in self._columns.values():
                columns.update({name: at(each, index) for name, each in columns.items()})
            self.packed = index.shape[1]
            return
        self._decode()
        self._newest.keep(index)
        self._newest = LayerCache.of(self._newest.keys, self._newest.values, self.stride)

    def _select_newest(self, start: int, kept: Tensor) -> None:
        if start < self.packed:
            self._select(torch.cat((torch.arange(start, device=kept.device), start + kept)))
        else:
            self._newest.keep_newest(self.length - start, kept)

    def _move(self, to: Sequence[int], source: Sequence[int]) -> None:
        entries = self.gather(numbers(source, self.device)[None])
        self._write(numbers(to, self.device), *entries)

    def _write(self, places: slice | Tensor, keys: Tensor | None, values: Tensor | None) -> None:
        if self.packed and not self.independent:
            self._decode()
        if isinstance(places, slice):
            places = torch.arange(self.length, device=self.device)[places]
        places = places[None] if places.dim() == 1 else places
        places = places.expand(self.heads, -1)
        for kind, entries in zip(KINDS, (keys, values)):
            if entries is None:
                continue
            entries = entries.to(self._newest.keys.dtype)
            for head in range(self.heads):
                self._write_head(kind, head, places[head], entries[:, head : head + 1])

    def _write_head(self, kind: str, head: int, places: Tensor, entries: Tensor) -> None:
        encoded = places < self.packed
        if bool(encoded.any()):
            made = self.encode(kind, entries[:, :, encoded])
            for name, column in self._columns[kind].items():
                column[:, head].index_copy_(1, places[encoded].to(column.device), made[name][:, 0])
        if not bool(encoded.all()):
            newest = getattr(self._newest, kind)
            newest[:, head].index_copy_(1, places[~encoded] - self.packed, entries[:, 0, ~encoded])
