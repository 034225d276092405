"""Keys and values of one layer as they came, in buffers that really shrink: the default, and the fast path."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from workbench.engine.state.entries import Entries


class LayerCache(Entries):
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
        How often something was dropped: places mean the same entries as long as it stays.
    """

    form = "dense"

    def __init__(self, reserve: int) -> None:
        super().__init__(reserve)
        self._keys: Tensor | None = None
        self._values: Tensor | None = None
        self._entry_bytes = 0.0

    @classmethod
    def of(cls, keys: Tensor, values: Tensor, reserve: int) -> LayerCache:
        """A cache of its own that holds these entries [batch, kv_heads, n, head_dim] of a text's beginning."""
        made = LayerCache(reserve)
        made._allocate(keys, _sizes(keys), keys.shape[2] + reserve)
        made._add(keys, values)
        made.length = keys.shape[2]
        return made

    @property
    def keys(self) -> Tensor:
        """Tensor [batch, kv_heads, length, head_dim], a view: keys as they were rotated when they came."""
        return self._keys[:, :, : self.length]

    @property
    def values(self) -> Tensor:
        """Tensor [batch, kv_heads, length, head_dim], a view."""
        return self._values[:, :, : self.length]

    @property
    def device(self) -> torch.device:
        return self._keys.device

    @property
    def heads(self) -> int:
        return self._keys.shape[1]

    @property
    def capacity(self) -> int:
        return 0 if self._keys is None else self._keys.shape[2]

    @property
    def bytes(self) -> int:
        """Bytes allocated for keys and values."""
        return 0 if self._keys is None else 2 * self._keys.numel() * self._keys.element_size()

    def bytes_by(self) -> dict[tuple[str, str], int]:
        if self._keys is None:
            return {}
        dtype, place = str(self._keys.dtype).removeprefix("torch."), self._keys.device.type
        return {(f"{kind} {dtype}", place): self.bytes // 2 for kind in ("keys", "values")}

    @property
    def entry_bytes(self) -> float:
        return self._entry_bytes

    def copy(self, reserve: int) -> LayerCache:
        """The same entries in buffers of their own, with room for ``reserve`` more."""
        made = LayerCache(reserve) if self._keys is None else LayerCache.of(self.keys, self.values, reserve)
        made._copy_marks(self)
        return made

    def open(self, like: Tensor, heads: int, width: int, count: int) -> tuple[int, int, int]:
        """Make room behind the entries for ``count`` more, which somebody writes there and tells :meth:`written`.

        Parameters
        ----------
        like : Tensor
            Of the dtype and device of what is stored.
        heads, width : int
            KV heads and their dimension.
        count : int

        Returns
        -------
        int, int, int
            Addresses of the first key and of the first value, and the numbers from one KV head to the next.
        """
        self._make_room(like, (1, heads, width), count)
        return self._keys.data_ptr(), self._values.data_ptr(), self._keys.stride(1)

    def _make_room(self, like: Tensor, sizes: tuple[int, int, int], count: int) -> None:
        end = self.length + count
        if end > self.capacity:
            self._allocate(like, sizes, int(1.25 * end) if self.length else end + self.reserve)

    def _add(self, key: Tensor, value: Tensor) -> None:
        batch, heads, count, width = key.shape
        self._make_room(key, (batch, heads, width), count)
        self._keys.narrow(2, self.length, count).copy_(key)
        self._values.narrow(2, self.length, count).copy_(value)

    def _drop(self, count: int) -> None:
        """Nothing: what stands behind ``length`` is overwritten."""

    def _select(self, index: Tensor) -> None:
        kept_keys, kept_values = self.gather(index[None] if index.dim() == 1 else index)
        # Let go of the old buffers before the new ones are made, so that both never stand beside each other in full.
        self._keys = self._values = None
        self.length = 0
        self._allocate(kept_keys, _sizes(kept_keys), kept_keys.shape[2] + self.reserve)
        self._add(kept_keys, kept_values)

    def _select_newest(self, start: int, kept: Tensor) -> None:
        for buffer in (self._keys, self._values):
            tail = buffer.narrow(2, start, self.length - start).index_select(2, kept)
            buffer.narrow(2, start, len(kept)).copy_(tail)

    def _move(self, to: Sequence[int], source: Sequence[int]) -> None:
        # A single place, the common case, needs no index tensor.
        into, of = (to[0], source[0]) if len(to) == 1 else (to, source)
        for buffer in (self._keys, self._values):
            buffer[:, :, into] = buffer[:, :, of]

    def _write(self, places: slice | Tensor, keys: Tensor | None, values: Tensor | None) -> None:
        for buffer, entries in ((self._keys, keys), (self._values, values)):
            if entries is None:
                continue
            if isinstance(places, Tensor) and places.dim() == 2:
                index = places.expand(entries.shape[1], -1)[None, :, :, None].expand(entries.shape)
                buffer.scatter_(2, index, entries.to(buffer.dtype))
            else:
                # The view: a slice from the end means the end of what is held.
                buffer[:, :, : self.length][:, :, places] = entries.to(buffer.dtype)

    def _allocate(self, like: Tensor, sizes: tuple[int, int, int], capacity: int) -> None:
        batch, heads, width = sizes
        keys, values = (like.new_empty(batch, heads, capacity, width) for _ in range(2))
        if self.length:
            keys[:, :, : self.length] = self.keys
            values[:, :, : self.length] = self.values
        self._keys, self._values = keys, values
        self._entry_bytes = 2.0 * batch * heads * width * keys.element_size()


def _sizes(entries: Tensor) -> tuple[int, int, int]:
    batch, heads, _, width = entries.shape
    return batch, heads, width
