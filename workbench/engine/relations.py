"""How the rows of one pass are related: which of them sees which, and how far behind the text before it stands.

Rows are numbered from 0 in the order of the pass; rows of earlier text that are computed along have the negative
distance to where the pass begins. Every pass row sees the earlier text; text rows see the text up to themselves.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from workbench.errors import SettingError
from workbench.models.device import numbers, put


class Relation(abc.ABC):
    """Which rows of a pass a row sees.

    Attributes
    ----------
    count : int
        Rows of the pass.
    chain : bool
        Whether each sees exactly itself and all before it.
    both_ways : bool
        Whether rows see later ones, so that a sliding window reaches to both sides.
    """

    count: int
    chain = False
    both_ways = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.count:,} rows>"

    @property
    @abc.abstractmethod
    def depths(self) -> Sequence[int]:
        """Of every row the distance from the first position of the pass."""

    @property
    @abc.abstractmethod
    def parents(self) -> list[int]:
        """Of every row the row before it, -1 for none in this pass."""

    @cached_property
    @abc.abstractmethod
    def matrix(self) -> Tensor:
        """bool Tensor [count, count] on the CPU: True where the row sees the column."""

    def depth(self, row: int) -> int:
        """Distance of a row from the first position of the pass; negative for earlier text."""
        return row if row < 0 else self.depths[row]

    def positions(self, rows: Sequence[int], start: int, device: torch.device) -> Tensor:
        """int Tensor [rows]: where rows stand in the text, the first position of the pass being ``start``."""
        if self.chain and isinstance(rows, range):
            return torch.arange(start + rows[0], start + rows[-1] + 1, device=device)
        return numbers([start + self.depth(row) for row in rows], device)

    def sees(self, rows: Sequence[int], columns: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
        """bool Tensor [rows, columns]: True where a row sees the column's."""
        # Where a matrix has to be asked it is asked here, and only the answer goes to the device.
        asked = device if self.chain else torch.device("cpu")
        row, column = numbers(rows, asked)[:, None], numbers(columns, asked)[None]
        seen = self._known(row, column)
        if min(rows) < 0 or min(columns, default=0) < 0:
            seen = torch.where((row < 0) | (column < 0), column <= row, seen)
        return put(seen, device) if seen.device.type == "cpu" else seen

    def _known(self, row: Tensor, column: Tensor) -> Tensor:
        return self.matrix[row.clamp(min=0), column.clamp(min=0)]

    def joined(self, parents: Sequence[int]) -> Relation:
        """With more rows, each of which sees itself and what its parent (any earlier row, or -1) sees."""
        last, more = self.count - 1, list(parents)
        if self.chain and more == list(range(last, last + len(more))):
            return Chain(self.count + len(more))
        return Tree([*self.parents, *more])

    def of_rows(self, kept: Sequence[int]) -> Relation:
        """The relation of the rows ``kept`` (increasing, the parents of each among them), numbered anew."""
        place = {-1: -1, **{row: new for new, row in enumerate(kept)}}
        return related([place[self.parents[row]] for row in kept], len(kept))


class Chain(Relation):
    """Each row sees itself and those before it."""

    chain = True

    def __init__(self, count: int) -> None:
        self.count = count

    @property
    def depths(self) -> range:
        return range(self.count)

    @property
    def parents(self) -> list[int]:
        return list(range(-1, self.count - 1))

    @cached_property
    def matrix(self) -> Tensor:
        return torch.ones(self.count, self.count, dtype=torch.bool).tril()

    def _known(self, row: Tensor, column: Tensor) -> Tensor:
        # Without the matrix: a long prompt may be asked for a few columns.
        return column <= row


class Tree(Relation):
    """Each row sees itself and its ancestors.

    Parameters
    ----------
    parents : sequence of int
        Place of each row's parent, before its own; -1 for a row that stands straight after the earlier text.
    """

    def __init__(self, parents: Sequence[int]) -> None:
        self._parents, self.count = list(parents), len(parents)

    @property
    def parents(self) -> list[int]:
        return self._parents

    @cached_property
    def depths(self) -> list[int]:
        depths: list[int] = []
        for parent in self._parents:
            depths.append(0 if parent < 0 else depths[parent] + 1)
        return depths

    @cached_property
    def matrix(self) -> Tensor:
        rows: list[list[bool]] = []
        for node, parent in enumerate(self._parents):
            row = list(rows[parent]) if parent >= 0 else [False] * self.count
            row[node] = True
            rows.append(row)
        return torch.tensor(rows)


class Segments(Relation):
    """Chains beside each other, none of which sees another: a block diagonal.

    Parameters
    ----------
    lengths : sequence of int
        Rows of each, in order. Every segment begins at the first position of the pass.
    """

    def __init__(self, lengths: Sequence[int]) -> None:
        self._lengths, self.count = list(lengths), sum(lengths)

    @cached_property
    def depths(self) -> list[int]:
        return [depth for length in self._lengths for depth in range(length)]

    @cached_property
    def parents(self) -> list[int]:
        return [row - 1 if depth else -1 for row, depth in enumerate(self.depths)]

    @cached_property
    def matrix(self) -> Tensor:
        return torch.block_diag(*(torch.ones(length, length).tril() for length in self._lengths)).bool()

    def _known(self, row: Tensor, column: Tensor) -> Tensor:
        segment = torch.repeat_interleave(torch.tensor(self._lengths))
        return (segment[row.clamp(min=0)] == segment[column.clamp(min=0)]) & (column <= row)


class BothWays(Relation):
    """Not causal: every row of the pass sees every other."""

    both_ways = True

    def __init__(self, count: int) -> None:
        self.count = count

    @property
    def depths(self) -> range:
        return range(self.count)

    @property
    def parents(self) -> list[int]:
        raise SettingError("rows that see one another both ways have no parents: nothing can join them")

    @cached_property
    def matrix(self) -> Tensor:
        return torch.ones(self.count, self.count, dtype=torch.bool)

    def _known(self, row: Tensor, column: Tensor) -> Tensor:
        return (row >= 0) & (column >= 0)


def related(parents: Sequence[int] | None, count: int) -> Relation:
    """The relation of ``count`` rows: a tree by its parents, or a chain where that is what they are, or None."""
    if parents is None or list(parents) == list(range(-1, count - 1)):
        return Chain(count)
    return Tree(parents)
