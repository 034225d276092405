"""Rows of a pass that say something before its end, which stands whatever the layers after make of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from workbench.engine.ledger import MODEL
from workbench.engine.rows import PassError
from workbench.models.device import numbers

if TYPE_CHECKING:
    from workbench.engine.decoder import Decoder


class Answers:
    """By row the stream that it is unembedded as, and its logits where they are known already.

    An exit gives them: its token is chosen where it leaves, while its residual stream may have to go on, so that later
    tokens find its keys and values.
    """

    def __init__(self) -> None:
        self._given: dict[int, tuple[Tensor, Tensor | None]] = {}

    def __len__(self) -> int:
        return len(self._given)

    def __contains__(self, row: int) -> bool:
        return row in self._given

    def give(self, rows: Sequence[int], x: Tensor, logits: Tensor | None = None) -> None:
        """Let rows be unembedded as ``x`` [rows, width], or have these ``logits`` [rows, vocabulary], which whoever
        computed them has counted.

        Raises
        ------
        PassError
            Not a stream, or logits, for every row.
        """
        if x.shape[0] != len(rows) or (logits is not None and logits.shape[0] != len(rows)):
            raise PassError(f"{len(rows)} rows answer with a stream, and logits, each: not with {x.shape[0]}")
        for place, row in enumerate(rows):
            self._given[row] = x[place], None if logits is None else logits[place]

    def settle(self, new: Mapping[int, int]) -> None:
        """Keep the rows that are named, numbered anew."""
        self._given = {new[row]: each for row, each in self._given.items() if row in new}

    def hidden(self, x: Tensor, rows: Sequence[int]) -> Tensor:
        """Streams [places, width] of the first ``rows``, those that have answered as they did."""
        return torch.stack([self._given[row][0] if row in self._given else x[place] for place, row in _first(rows, x)])

    def unembed(self, decoder: Decoder, x: Tensor, rows: Sequence[int]) -> Tensor:
        """Logits [rows, vocabulary] of streams ``x`` [rows, width] as :meth:`hidden` gave them."""
        ledger, anatomy = decoder.ledger, decoder.anatomy
        given = {place: self._given[row][1] for place, row in _first(rows, x) if row in self._given} if self else {}
        known = {place: logits for place, logits in given.items() if logits is not None}
        left = [place for place in range(len(x)) if place not in known] if known else []
        if not known:
            ledger.product(MODEL, len(x), anatomy.head)
            return anatomy.unembed(x)
        if left:
            ledger.product(MODEL, len(left), anatomy.head)
            made = anatomy.unembed(x[numbers(left, x.device)])
            known |= dict(zip(left, made))
        return torch.stack([known[place] for place in range(len(x))])


def _first(rows: Sequence[int], x: Tensor) -> list[tuple[int, int]]:
    """Place and row of as many rows as there are streams."""
    return list(enumerate(rows[: len(x)]))
