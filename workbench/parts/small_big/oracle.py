"""The best way of a token under a budget of big MLPs, found by one who knows the next token.

Source
------
Alizadeh et al., Duo-LLM, 2024, arXiv 2410.10846. All ways are tried where a few layers are searched. Over many, a beam
keeps the best whole ways, and changes them one layer at a time, from all small upwards or from all big downwards,
whichever is nearer to the budget: an upper bound on the loss of the best way.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from workbench.parts.small_big.small import BIG, NONE, SMALL

Loss = Callable[[Tensor], Tensor]
"""From ways, int [rows, layers] of NONE, SMALL and BIG, to their losses [rows]."""

_MOST_SEARCHED = 6  # layers of which all ways are tried: 729
_UP = (SMALL, BIG), (NONE, BIG)
_DOWN = (BIG, SMALL), (BIG, NONE)
_FREE = ((SMALL, NONE),)


def oracle(
    loss: Loss, layers: int, searched: Sequence[int], budgets: Sequence[int], beam: int
) -> tuple[Tensor, Tensor]:
    """The least loss found with at most so many big MLPs among the searched layers.

    Parameters
    ----------
    loss : callable
    layers : int
    searched : sequence of int
        Layers that may be big, small or none; all others are big.
    budgets : sequence of int
        Increasing.
    beam : int
        Ways kept of each number of big MLPs, where not all are tried.

    Returns
    -------
    losses : Tensor [budgets]
    ways : int Tensor [budgets, layers]
    """
    if len(searched) <= _MOST_SEARCHED:
        found = _all(loss, layers, searched)
    else:
        found = _beam(loss, layers, list(searched), budgets, beam)
    losses, ways = zip(*(_within(found, budget) for budget in budgets))
    return torch.stack(losses), torch.stack(ways)


def _within(found: list[tuple[Tensor, Tensor, Tensor]], budget: int) -> tuple[Tensor, Tensor]:
    """Loss and way of the best of (ways, number of big, losses) that keep to a budget."""
    ways, big, losses = (torch.cat(each) for each in zip(*found))
    losses = losses.masked_fill(big > budget, torch.inf)
    best = losses.argmin()
    return losses[best], ways[best]


def _all(loss: Loss, layers: int, searched: Sequence[int]) -> list[tuple[Tensor, Tensor, Tensor]]:
    kinds = torch.tensor(list(itertools.product((NONE, SMALL, BIG), repeat=len(searched))), dtype=torch.long)
    ways = torch.full((len(kinds), layers), BIG)
    ways[:, list(searched)] = kinds
    return [(ways, (kinds == BIG).sum(1), loss(ways).cpu())]


def _beam(
    loss: Loss, layers: int, searched: list[int], budgets: Sequence[int], beam: int
) -> list[tuple[Tensor, Tensor, Tensor]]:
    count, found = len(searched), []
    low = [budget for budget in budgets if 2 * budget <= count]
    high = [min(budget, count) for budget in budgets if 2 * budget > count]
    for start, moves, free, levels in (
        (SMALL, _UP, _FREE, range(max(low) + 1) if low else ()),
        (BIG, _DOWN, (), range(count, min(high) - 1, -1) if high else ()),
    ):
        kept, losses = torch.full((1, layers), BIG), torch.empty(0)
        kept[:, searched] = start
        for step, big in enumerate(levels):
            kept, losses = _best(loss, _changed(kept, searched, moves) if step else kept, beam)
            others = _changed(kept, searched, free)
            if len(others):
                more, also = _best(loss, others, beam)
                order = torch.cat((losses, also)).argsort(stable=True)[:beam]
                kept, losses = torch.cat((kept, more))[order], torch.cat((losses, also))[order]
            found.append((kept, torch.full((len(kept),), big), losses))
    return found


def _best(loss: Loss, ways: Tensor, beam: int) -> tuple[Tensor, Tensor]:
    losses = loss(ways).cpu()
    order = losses.argsort(stable=True)[:beam]
    return ways[order], losses[order]


def _changed(ways: Tensor, searched: list[int], moves: Sequence[tuple[int, int]]) -> Tensor:
    """All ways that differ from one of some by one move at one of the searched layers."""
    places, made = torch.tensor(searched), []
    for before, after in moves:
        rows, columns = (ways[:, searched] == before).nonzero().unbind(1)
        new = ways[rows]
        new[torch.arange(len(rows)), places[columns]] = after
        made.append(new)
    return torch.cat(made).unique(dim=0) if made else ways[:0]
