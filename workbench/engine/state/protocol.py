"""What a layer remembers of the text, as everything else sees it.

A new form or place is a class of these methods: from :class:`workbench.engine.state.entries.Entries` one that keeps an
entry for every token, from :class:`workbench.engine.state.packed.PackedState` one whose older entries are kept in
another form or elsewhere, from :class:`workbench.engine.state.recurrent.RecurrentState` one that keeps no entries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

if TYPE_CHECKING:
    from workbench.models.attention import Scoring

MakeMask = Callable[[], Tensor | None]
"""Makes the mask of a layer when it is asked for: bool [tokens, keys] or [kv_heads, tokens, keys], None where all keys
are visible."""


class LayerState(Protocol):
    """What :class:`workbench.engine.KeyValueCache` asks of every layer.

    Attributes
    ----------
    recurrent : bool
        Whether the layer keeps a state of fixed size in place of entries; then it is none of :class:`KeyValueState`.
    length : int
        Entries held, padding of ragged heads included; of a recurrent state the rows that went through it.
    kept : float
        Entries of a KV head that can be read, the mean over heads; 0 of a recurrent state.
    rows : list of sequence of int
        For every time that the last pass came by, a repeated layer's too, the rows of the pass that it took in. Who
        begins a pass empties it.
    contiguous : bool
        Whether nothing was evicted or left out: tokens 0 … ``length`` - 1 in order.
    positions : int Tensor [kv_heads or 1, entries]
        Position in the text of every entry.
    form : str
        In what form and place things are kept, its settings included.
    room : int or None
        Tokens that a pass may read ahead and still read what came before as if each had come alone; None for any
        number. A store that brings old entries into another form says when it will do so next.
    """

    length: int
    rows: list[Sequence[int]]

    @property
    def recurrent(self) -> bool: ...

    @property
    def appended(self) -> int:
        """Rows that the last pass added."""

    @property
    def kept(self) -> float: ...

    @property
    def contiguous(self) -> bool: ...

    @property
    def positions(self) -> Tensor: ...

    @property
    def form(self) -> str: ...

    @property
    def room(self) -> int | None: ...

    @property
    def bytes(self) -> int:
        """Bytes allocated, in the form in which things are stored."""

    def bytes_by(self) -> dict[tuple[str, str], int]:
        """(kind, place) -> bytes allocated, for example ``("keys 4-bit", "cpu")``."""

    def pack(self) -> None:
        """None of the entries will be dropped for having been drafted: a store may bring them into its form. Called
        after a pass of the prompt; between drafts a store sees for itself, as the next pass begins."""

    def can_crop(self, count: int) -> bool:
        """Whether :meth:`crop` can forget as many; a recurrent state goes back only to where it was remembered."""

    def crop(self, count: int) -> None:
        """Forget the last ``count`` tokens."""

    def settle(self, kept: Sequence[int]) -> None:
        """Of the rows that the last pass took in keep those at ``kept`` (increasing) and forget the others."""

    def snapshot(self) -> Any:
        """What :meth:`restore` goes back to."""

    def restore(self, snapshot: Any) -> None:
        """Be as at the snapshot.

        Raises
        ------
        WorkbenchError
            If what was there is gone.
        """

    def copy(self, reserve: int) -> LayerState:
        """The same in memory of its own, with room for ``reserve`` more tokens."""


class KeyValueState(LayerState, Protocol):
    """A layer that keeps a key and a value of every token, less what was evicted.

    The order of the entries carries no meaning, except that the newest stand last until the next eviction.

    Attributes
    ----------
    reserve : int
        Entries to make room for beyond those that come first.
    keys, values : Tensor [batch, kv_heads, length, head_dim]
        Keys as they were rotated when they came. Never to be written to: views of the store's own memory, or made on
        the spot.
    valid : bool Tensor [kv_heads, length] or None
        False where a head that holds fewer entries than another is padded; None where all are entries.
    evictions : int
        How often something was dropped: places mean the same entries as long as it stays.
    evicted : float
        Entries of a KV head that were evicted or merged away, the mean over heads.
    entry_bytes : float
        Bytes of one entry over all KV heads, key and value, as stored; the mean of those held.
    attend : callable or None
        ``attend(query, make_mask, scoring)`` for a state that attends by itself, or that the queries tell what to hold:
        weighted values [batch, heads, tokens, head_dim] and the keys that a query read on average, or None to leave it
        to the engine. ``make_mask()`` gives the mask over what is held by then.
    """

    reserve: int
    evictions: int
    evicted: float
    attend: Callable[[Tensor, MakeMask, Scoring], tuple[Tensor, float] | None] | None

    @property
    def keys(self) -> Tensor: ...

    @property
    def values(self) -> Tensor: ...

    @property
    def valid(self) -> Tensor | None: ...

    @property
    def entry_bytes(self) -> float: ...

    def append(self, key: Tensor, value: Tensor, positions: Tensor, rows: Sequence[int] | None = None) -> None:
        """Add entries [batch, kv_heads, tokens, head_dim] of ``positions`` [tokens] at the end; they are of ``rows`` of
        the pass, by default all of them, in order."""

    def read(self, start: int, stop: int) -> tuple[Tensor, Tensor, Tensor]:
        """Keys, values and positions of the entries from ``start`` to ``stop``, the others left as they are."""

    def gather(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [batch, kv_heads, chosen, head_dim] of the entries at ``index`` [1 or kv_heads, chosen]."""

    def blocks(self, size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """All entries, ``size`` at a time, as :meth:`read` gives them."""

    def mark_positions(self, positions: Tensor, whole: int | None = None) -> None:
        """Write down positions [length] or [kv_heads, length] where they are not simply 0, 1, 2, …; the first ``whole``
        entries are, where that is given: cropped to them, the layer is contiguous again."""

    def keep(self, index: Tensor, valid: Tensor | None = None) -> None:
        """Keep only the entries at ``index`` [kept] or [kv_heads, kept]. Heads that keep different numbers say in
        ``valid`` [kv_heads, kept] which of theirs are entries; what the others name is padding."""

    def keep_newest(self, count: int, kept: Tensor) -> None:
        """Of the last ``count`` entries keep those at ``kept`` (int Tensor, increasing)."""

    def replace(self, places: Sequence[int]) -> None:
        """Drop the entries at ``places`` (the same for all heads); the newest entries move into the free places."""

    def rewrite(
        self,
        places: slice | Tensor,
        keys: Tensor | None = None,
        values: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> None:
        """Give the entries at ``places`` other keys, values or positions."""

    def merge(self, groups: Tensor, weights: Tensor | None = None) -> None:
        """Let every group of entries become one, the weighted mean of its keys and of its values."""

    def take(self, other: KeyValueState) -> None:
        """Hold what another state holds, in this one's own form; only while this one is empty."""
