"""Which keys the rows of a pass see: a rule, of which a mask is made only where somebody asks for one.

A row sees the text before it, and of the pass's own entries those of the rows that its
:class:`~workbench.engine.relations.Relation` names. Where a layer runs more than once, a row on its n-th visit sees
what others added on their first n: so a token sees the same whether it comes alone, in a draft or in a prompt.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import chain as joined
from typing import Any, TypeVar

import torch
from torch import Tensor

from workbench.engine.attention import chain_keys, mean_keys
from workbench.engine.relations import Relation
from workbench.engine.state import KeyValueState
from workbench.models.device import numbers, put

T = TypeVar("T")


class Visibility:
    """What the rows that run now see, in any layer.

    Parameters
    ----------
    relation : Relation
        Of all rows of the pass, those that do not run now included.
    rows : sequence of int
        Numbers of those that run, increasing.
    start : int
        Position of the first row of the pass.
    positions : int Tensor [rows]
    evicted : set of int
        Layers that dropped entries during the pass, so that its earlier visits can no more be told from the text.
    repeated : set of int, optional
        Layers that a row has visited twice, in this pass or an earlier one.
    """

    def __init__(
        self,
        relation: Relation,
        rows: Sequence[int],
        start: int,
        positions: Tensor,
        evicted: set[int] | None = None,
        repeated: set[int] | None = None,
    ) -> None:
        self.relation, self.rows, self.start, self.positions = relation, rows, start, positions
        self.evicted = set() if evicted is None else evicted
        self.repeated = set() if repeated is None else repeated
        # The common case, looked at in every layer.
        self.plain = (relation.chain or len(rows) == 1) and rows[0] >= 0
        self._made: dict[Any, Any] = {}

    @property
    def device(self) -> torch.device:
        return self.positions.device

    def over(self, layer: KeyValueState, index: int, window: int | None) -> Visible:
        """What they see of one layer's entries, the last of which are their own; ``window`` is its sliding window."""
        return Visible(self, layer, index, window)

    def once(self, key: Any, make: Callable[[], T]) -> T:
        """What ``make`` gave when it was first asked for: layers of one pass share masks."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def positions_of(self, rows: Sequence[int]) -> Tensor:
        """int Tensor [rows]: where rows of this pass stand in the text."""
        return self.positions if rows is self.rows else self.relation.positions(rows, self.start, self.device)


class Visible:
    """What the rows of a pass see of one layer; nothing is computed before it is asked for.

    Attributes
    ----------
    layer : KeyValueState
    index : int
        Number of the layer.
    window : int or None
        A row sees only entries less than so many positions away.
    """

    __slots__ = ("_pass", "index", "layer", "window")

    def __init__(self, visibility: Visibility, layer: KeyValueState, index: int, window: int | None) -> None:
        self._pass, self.layer, self.index, self.window = visibility, layer, index, window

    @property
    def count(self) -> int:
        """Rows."""
        return len(self._pass.rows)

    @property
    def positions(self) -> Tensor:
        """int Tensor [rows]: their positions in the text."""
        return self._pass.positions

    @property
    def alone(self) -> bool:
        """Whether the pass's own entries are those that these rows have just added, and all others are text that every
        row sees."""
        visits, rows = self.layer.rows, self._pass.rows
        if len(visits) != 1 or self._irregular:
            return False
        mine = visits[0] is rows or list(visits[0]) == list(rows)
        return mine and (rows[0] >= 0 or self._sees_text(rows[0]))

    @property
    def chain(self) -> bool:
        """Whether they are the last of a chain of entries: each sees itself and everything before it, but for the
        window."""
        seen, layer = self._pass, self.layer
        if seen.plain and not (seen.evicted or seen.repeated) and layer.valid is None:
            visits = layer.rows
            if len(visits) == 1 and visits[0] is seen.rows:
                return True
        if not (seen.relation.chain or len(seen.rows) == 1):
            return False
        if self.alone:
            return True
        if self._irregular or not seen.relation.chain:
            return False
        entries, count, first = self._entries(), len(seen.rows), seen.rows[0]
        return (
            entries[len(entries) - count :] == list(seen.rows)
            and all(row <= first for row in entries[: len(entries) - count])
            and (first >= 0 or self._sees_text(first))
        )

    def own(self) -> Tensor:
        """bool Tensor [rows, entries]: which of the entries that this pass added, the layer's last, each row sees."""
        entries = self._entries()
        return self._pass.once(
            ("own", tuple(entries)), lambda: self._pass.relation.sees(self._pass.rows, entries, self._pass.device)
        )

    def drafted(self, chain: bool, make: Callable[[Tensor], T]) -> tuple[T, float]:
        """What ``make`` gives of how the rows see one another, [rows, rows], once for a pass, and how many of them each
        sees on average; as a chain, or as their relation says."""

        def pair() -> tuple[T, float]:
            seen, count = self._pass, self.count
            if chain:
                own = torch.ones(count, count, dtype=torch.bool, device=seen.device).tril()
                return make(own), (count + 1) / 2
            own = seen.relation.sees(seen.rows, seen.rows)
            return make(put(own, seen.device)), float(own.sum()) / count

        return self._pass.once(("drafted", chain), pair)

    def marks(self) -> tuple[Tensor, float]:
        """uint8 Tensor [rows, rows], 1 where a row sees another, as the compiled kernels take it, and how many of them
        each sees on average."""
        return self.drafted(False, lambda own: own.to(torch.uint8))

    def mask(self) -> Tensor | None:
        """bool Tensor [rows, keys] or [kv_heads, rows, keys]: True where a key is visible; None where all are.

        Notes
        -----
        Made once for the layers of a pass that hold the same; it has rows × keys elements, 256 MB for the prompt of
        16,000 tokens.
        """
        if len(self._pass.rows) == 1 and self._uncut and self.chain:
            return None
        return self._pass.once(self._key, self._mask)

    def keys_read(self) -> float:
        """Keys that a row sees on average, over rows and KV heads."""
        return self._pass.once(("mean", *self._key), self._keys_read)

    @property
    def _key(self) -> tuple[Any, ...]:
        """What layers whose rows see the same have in common."""
        layer, key = self.layer, (self.layer.length, self.window)
        return (*key, "alone") if layer.contiguous and self.alone else (*key, self.index, len(layer.rows))

    @property
    def _uncut(self) -> bool:
        """Whether the sliding window hides nothing."""
        return self.window is None or (self.layer.contiguous and self.layer.length <= self.window)

    def _keys_read(self) -> float:
        seen, held = self._pass, self.layer.length
        if self._irregular or not self._uncut or not (seen.rows[0] >= 0 or self._sees_text(seen.rows[0])):
            return mean_keys(self.mask(), held)
        # The text is seen by all of them: what they see of the pass is known without asking the device.
        if self.chain:
            return chain_keys(self.count, held, None)
        entries = self._entries()
        own = int(seen.relation.sees(seen.rows, entries).sum())
        return ((held - len(entries)) * self.count + own) / self.count

    @property
    def _irregular(self) -> bool:
        """Whether not every entry of the text is one that every row sees."""
        return self.layer.valid is not None or self.index in self._pass.evicted or self.index in self._pass.repeated

    def _entries(self) -> list[int]:
        return list(joined.from_iterable(self.layer.rows))

    def _sees_text(self, row: int) -> bool:
        """Whether a row of earlier text stands behind all entries of the text."""
        layer = self.layer
        return layer.contiguous and layer.length - layer.appended <= self._pass.start + row

    def _mask(self) -> Tensor:
        layer, seen = self.layer, self._pass
        entries, rows = self._entries(), seen.rows
        text = layer.length - len(entries)
        asking = seen.positions[:, None]
        own = self.own()
        earlier = layer.positions[:, :text]
        if self.index in seen.evicted or (rows[0] < 0 and not self._sees_text(rows[0])):
            shown = earlier[:, None] <= asking
            mask = torch.cat((shown, own.expand(len(shown), -1, -1)), 2)
        else:
            mask = torch.cat((own.new_ones(len(rows), text), own), 1)[None]
        if self.window is not None:
            # Nodes of a tree stand at their depth, not at their place in the cache.
            mine = seen.positions_of(rows if self.alone else entries)
            stands = torch.cat((earlier, mine.expand(earlier.shape[0], -1)), 1)
            distance = asking - stands[:, None]
            mask = mask & ((distance.abs() if seen.relation.both_ways else distance) < self.window)
        if self.index in seen.repeated:
            own_visits = numbers(_visits(entries), earlier.device)
            visits = torch.cat((_ranks(earlier), own_visits.expand(len(earlier), -1)), 1)
            mine = own_visits[len(entries) - len(rows) :]
            mask = mask & (visits[:, None] <= mine[:, None])
        if layer.valid is not None:
            mask = mask & layer.valid[:, None]
        return mask[0] if mask.shape[0] == 1 else mask


def _visits(entries: Sequence[int]) -> list[int]:
    """For each entry how many of the same row came before it."""
    before: Counter[int] = Counter()
    visits = []
    for row in entries:
        visits.append(before[row])
        before[row] += 1
    return visits


def _ranks(positions: Tensor) -> Tensor:
    """int Tensor [heads, entries]: for each entry how many before it stand at the same position of the text."""
    stands, order = positions.sort(stable=True, dim=-1)
    places = torch.arange(positions.shape[1], device=positions.device).expand_as(positions)
    first = torch.ones_like(stands, dtype=torch.bool)
    first[:, 1:] = stands[:, 1:] != stands[:, :-1]
    begins = places.where(first, 0).cummax(-1).values
    return torch.zeros_like(places).scatter(1, order, places - begins)
