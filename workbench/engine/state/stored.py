"""What a state that keeps an entry for every token stores, and how it is read; a subclass says the form and place."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from workbench.engine.state.places import at

if TYPE_CHECKING:
    from workbench.engine.state.protocol import KeyValueState, MakeMask
    from workbench.models.attention import Scoring


class Stored(abc.ABC):
    """The half of :class:`workbench.engine.state.Entries` that looks and does not change.

    Parameters
    ----------
    reserve : int
        Entries to make room for beyond those that come first.
    """

    recurrent: ClassVar[bool] = False
    attend: Callable[[Tensor, MakeMask, Scoring], tuple[Tensor, float] | None] | None = None

    def __init__(self, reserve: int) -> None:
        self.reserve = reserve
        self.length = 0
        self.rows: list[Sequence[int]] = []
        self.evictions = 0
        self.evicted = 0.0
        self._positions: Tensor | None = None
        # So many at the front are 0, 1, 2, … though positions are written down; None where that is not known.
        self._whole: int | None = None
        self._valid: Tensor | None = None

    # What a subclass stores: these change keys and values alone, and find ``length`` as it was before the change.

    @property
    @abc.abstractmethod
    def keys(self) -> Tensor: ...

    @property
    @abc.abstractmethod
    def values(self) -> Tensor: ...

    @property
    @abc.abstractmethod
    def form(self) -> str: ...

    @property
    @abc.abstractmethod
    def device(self) -> torch.device:
        """Where the model computes."""

    @property
    @abc.abstractmethod
    def entry_bytes(self) -> float: ...

    @abc.abstractmethod
    def bytes_by(self) -> dict[tuple[str, str], int]: ...

    @abc.abstractmethod
    def copy(self, reserve: int) -> KeyValueState: ...

    @abc.abstractmethod
    def _add(self, key: Tensor, value: Tensor) -> None:
        """Store entries [batch, kv_heads, tokens, head_dim] behind the others."""

    @abc.abstractmethod
    def _drop(self, count: int) -> None:
        """Forget the last ``count`` entries."""

    @abc.abstractmethod
    def _select(self, index: Tensor) -> None:
        """Hold only the entries at ``index`` [kept] or [kv_heads, kept], and give memory back."""

    @abc.abstractmethod
    def _select_newest(self, start: int, kept: Tensor) -> None:
        """Of the entries from ``start`` on hold only those at ``start + kept``."""

    @abc.abstractmethod
    def _move(self, to: Sequence[int], source: Sequence[int]) -> None:
        """Let the entries at ``to`` be those at ``source``; no place is in both."""

    @abc.abstractmethod
    def _write(self, places: slice | Tensor, keys: Tensor | None, values: Tensor | None) -> None:
        """Store other keys or values at ``places``: a slice, [n], or [kv_heads, n]."""

    # What all of them do.

    @property
    def bytes(self) -> int:
        """Bytes allocated for keys and values, in the form in which they are stored."""
        return sum(self.bytes_by().values())

    @property
    def appended(self) -> int:
        """Entries that the last pass added."""
        return sum(map(len, self.rows))

    @property
    def room(self) -> int | None:
        """None: entries stay as they came, so that a pass may read any number of tokens ahead."""
        return None

    @property
    def contiguous(self) -> bool:
        """Whether the entries are positions 0 … length - 1 in order: nothing was evicted or left out."""
        return self._positions is None

    @property
    def positions(self) -> Tensor:
        """int Tensor [kv_heads or 1, length]: position in the text of every entry."""
        if self._positions is None:
            return torch.arange(self.length, device=self.device)[None]
        return self._positions[:, : self.length]

    @property
    def valid(self) -> Tensor | None:
        """bool Tensor [kv_heads, length], False where a head is padded; None where all are entries."""
        return self._valid

    @property
    def kept(self) -> float:
        """Entries of a KV head, the mean over heads."""
        return self.length if self._valid is None else float(self._valid.sum()) / len(self._valid)

    @property
    def heads(self) -> int:
        """KV heads."""
        return self.keys.shape[1]

    def read(self, start: int, stop: int) -> tuple[Tensor, Tensor, Tensor]:
        """Keys, values and positions of the entries from ``start`` to ``stop``."""
        return self.keys[:, :, start:stop], self.values[:, :, start:stop], self.positions[:, start:stop]

    def blocks(self, size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Keys, values and positions of all entries, ``size`` at a time."""
        for start in range(0, self.length, size):
            yield self.read(start, min(start + size, self.length))

    def gather(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [batch, kv_heads, chosen, head_dim] of the entries at ``index`` [1 or kv_heads, chosen]."""
        return at(self.keys, index), at(self.values, index)
