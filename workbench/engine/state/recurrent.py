"""A layer that remembers a state of fixed size in place of entries, and how drafts are taken out of it again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from workbench.engine.state.places import renumbered
from workbench.errors import WorkbenchError

Tensors = dict[str, Tensor]


class RecurrentState:
    """What a recurrent mixer remembers.

    It cannot be cropped. A pass whose rows may be dropped again (a chain or a tree of drafted tokens) goes through the
    mixer row by row, each from the state that its parent left, and the states stay until the next pass, so that
    :meth:`settle` picks that of the last row kept. So every row is computed as if it had come alone, and nothing runs
    twice. The price is one state for each row.

    Parameters
    ----------
    tensors : mapping of str to Tensor, optional
        The state before the first token.
    history : int
        States of so many tokens before the newest are held too, so that :meth:`crop` can go back to them: what a draft
        model needs. Without it the only way back is to the beginning.

    Attributes
    ----------
    tensors : dict of str to Tensor
        The present state. A mixer puts new tensors in and never writes into those that are there: a snapshot is then no
        copy.
    length : int
        Rows that went through, one that came twice counted twice.
    """

    recurrent: ClassVar[bool] = True
    form = "recurrent"
    contiguous = True
    kept = 0.0
    room: int | None = None

    def __init__(self, tensors: Mapping[str, Tensor] | None = None, history: int = 0) -> None:
        self.tensors: Tensors = dict(tensors or {})
        self.history = history
        self.length = 0
        self.rows: list[Sequence[int]] = []
        self._first = dict(self.tensors)
        # Length -> state, of the newest tokens and not of the present one.
        self._earlier: dict[int, Tensors] = {}
        self._before: tuple[int, Tensors] | None = None
        self._after: dict[int, Tensors] = {}

    @property
    def positions(self) -> Tensor:
        """int Tensor [1, 0]: there are no entries."""
        return torch.zeros(1, 0, dtype=torch.long)

    @property
    def bytes(self) -> int:
        return sum(self.bytes_by().values())

    def bytes_by(self) -> dict[tuple[str, str], int]:
        """Bytes of the present state, and of those that may be gone back to."""
        held: dict[tuple[str, str], int] = {}
        counted: set[int] = set()
        present = "recurrent state"
        earlier = [*self._earlier.values(), *self._after.values(), *([self._before[1]] if self._before else [])]
        for kind, tensors in ((present, self.tensors), *(("earlier states", each) for each in earlier)):
            for tensor in tensors.values():
                if id(tensor) not in counted:
                    counted.add(id(tensor))
                    place = kind, tensor.device.type
                    held[place] = held.get(place, 0) + tensor.numel() * tensor.element_size()
        return held

    @property
    def appended(self) -> int:
        """Rows that the last pass took in."""
        return sum(map(len, self.rows))

    def advance(
        self,
        mixer: Callable[[Tensor, RecurrentState], Tensor],
        x: Tensor,
        rows: Sequence[int] | None = None,
        parents: Sequence[int] | None = None,
        revocable: bool = True,
    ) -> Tensor:
        """Take rows in.

        Parameters
        ----------
        mixer : callable
            ``mixer(x, state)`` gives what the sublayer adds, and leaves the state after the last row in ``tensors``.
        x : Tensor [batch, rows, width]
        rows : sequence of int, optional
            Which rows of the pass these are, increasing; by default all of them. Rows below 0 are of earlier text.
        parents : sequence of int, optional
            Of a tree every row's parent in the whole pass, -1 for none; by default a chain. A parent that did not come
            to this layer is passed over for its own.
        revocable : bool
            Whether :meth:`settle` may drop some of several rows. A prompt goes through in one piece.

        Returns
        -------
        Tensor [batch, rows, width]

        Notes
        -----
        A row that comes again, to a layer that is repeated, goes on from where it left the layer. That is exact for a
        token that comes alone, and for no draft.
        """
        count = x.shape[1]
        rows = range(count) if rows is None else rows
        if not self.rows:
            self._begin()
        self.rows.append(rows)
        self.length += count
        if not self._first:
            # Nothing is remembered, so rows need not come one by one.
            self._after |= {row: {} for row in rows}
            return mixer(x, self)
        if count > 1 and not revocable:
            out = mixer(x, self)
            self._after[rows[-1]] = dict(self.tensors)
            return out
        outs = []
        for place, row in enumerate(rows):
            self.tensors = dict(self._stand(row, parents))
            outs.append(mixer(x[:, place : place + 1], self))
            self._after[row] = dict(self.tensors)
        return outs[0] if count == 1 else torch.cat(outs, 1)

    def settle(self, kept: Sequence[int]) -> None:
        """Be as after the last of the rows ``kept`` (increasing: a chain, or a path of the tree); rows below 0 stay.

        Raises
        ------
        WorkbenchError
            If rows of a pass that was not ``revocable`` are to be dropped.
        """
        passed = {row for each in self.rows for row in each}
        if not passed or self._before is None:
            return
        new = renumbered(passed, kept)
        ran = [row for row in new if row in passed]
        if len(ran) < len(passed) and ran and ran[-1] not in self._after:
            raise WorkbenchError("rows went through a recurrent layer in one piece: let its pass be revocable")
        if all(row in self._after for row in ran):
            self.length, self.tensors = self._before[0], dict(self._before[1])
            for row in ran:
                self._remember()
                self.tensors = dict(self._after[row])
                self.length += 1
            self.length = self._before[0] + sum(row in new for each in self.rows for row in each)
        self._after = {new[row]: self._after[row] for row in ran if row in self._after}
        self.rows = [[new[row] for row in each if row in new] for each in self.rows]

    def pack(self) -> None:
        """Nothing: there are no entries."""

    def can_crop(self, count: int) -> bool:
        """Whether the state before the last ``count`` tokens is there."""
        return count == 0 or not self._first or self.length - count in self._held()

    def crop(self, count: int) -> None:
        """Go back by ``count`` tokens, to the beginning or to a state that is held.

        Raises
        ------
        WorkbenchError
            If that state is gone.
        """
        if not self.can_crop(count):
            raise WorkbenchError(
                f"a recurrent layer cannot forget its last {count:,} tokens: begin anew, or hold a history"
            )
        if count:
            self.restore((self.length - count, self._held().get(self.length - count, {})))
        self.rows = []
        self._before, self._after = None, {}

    def snapshot(self) -> tuple[int, Tensors]:
        """What :meth:`restore` goes back to, any number of times."""
        return self.length, dict(self.tensors)

    def restore(self, snapshot: tuple[int, Tensors]) -> None:
        """Be as at the snapshot."""
        self.length, self.tensors = snapshot[0], dict(snapshot[1])
        self._earlier = {length: each for length, each in self._earlier.items() if length < self.length}
        self.rows = []
        self._before, self._after = None, {}

    def copy(self, reserve: int) -> RecurrentState:
        """The same state in tensors of its own."""
        made = RecurrentState({name: each.clone() for name, each in self._first.items()}, self.history)
        made.tensors = {name: each.clone() for name, each in self.tensors.items()}
        made.length = self.length
        return made

    def _held(self) -> dict[int, Tensors]:
        """Length -> the state there, of those that may be gone back to."""
        before = {} if self._before is None else {self._before[0]: self._before[1]}
        return {0: self._first} | self._earlier | before

    def _stand(self, row: int, parents: Sequence[int] | None) -> Tensors:
        """The state that a row of this pass starts from."""
        lowest = min(self._after, default=0)
        while row not in self._after:
            row = row - 1 if parents is None or row < 0 else parents[row]
            if row < lowest:
                return self._before[1]
        return self._after[row]

    def _begin(self) -> None:
        """A pass begins: what the last one could go back to is gone, but for the history."""
        if self.history and len(self._after) > 1:
            # A chain that nobody settled was kept as a whole.
            states = list(self._after.values())[:-1]
            self._earlier |= {self.length - len(states) + place: each for place, each in enumerate(states)}
        self._remember()
        self._before, self._after = (self.length, dict(self.tensors)), {}

    def _remember(self) -> None:
        if self.history:
            self._earlier[self.length] = dict(self.tensors)
            self._earlier = dict(sorted(self._earlier.items())[-self.history :])
