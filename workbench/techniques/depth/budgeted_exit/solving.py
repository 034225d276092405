"""Thresholds of exits from a budget: who is to leave where, and from which confidence on."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_STEPS = 60
_STEEPEST = 50.0  # of the logarithm of the ratio: beyond it all leave at one end


def geometric(logarithm: float, exits: int) -> list[float]:
    """Shares ``q_k ~ ratio^k`` of k = 1 … ``exits``, which add up to 1, from the ratio's logarithm."""
    return torch.softmax(logarithm * torch.arange(1, exits + 1, dtype=torch.float64), 0).tolist()


def shares_within(costs: Sequence[float], budget: float) -> list[float]:
    """Shares of the geometric family with the largest ratio whose mean cost is within a budget.

    Parameters
    ----------
    costs : sequence of float
        Of what leaves at each exit, increasing.
    budget : float
        Of the mean, not below the first cost.

    Returns
    -------
    list of float
        All at the last exit where its cost is within the budget.
    """
    if budget >= costs[-1]:
        return [0.0] * (len(costs) - 1) + [1.0]
    low, high = -_STEEPEST, _STEEPEST
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if mean(geometric(middle, len(costs)), costs) <= budget:
            low = middle
        else:
            high = middle
    return geometric(low, len(costs))


def thresholds(values: Tensor, shares: Sequence[float]) -> list[float]:
    """From which confidence on tokens leave, so that at each exit its share of them has left.

    Parameters
    ----------
    values : float Tensor [exits - 1, tokens]
        Confidence of every calibration token at every exit but the last, where all leave.
    shares : sequence of float
        Of all exits, in order; they add up to 1.

    Returns
    -------
    list of float
        One for each row of ``values``; infinite where nobody is to leave. Of what is left at an exit those leave that
        are surest there: as many as make up its share and those of the exits before, rounded up, and any tied with the
        last of them. So the mean cost is never above that of the shares.
    """
    tokens = values.shape[1]
    here, found, due = torch.ones(tokens, dtype=torch.bool), list[float](), 0.0
    for row, share in zip(values, shares):
        due += share
        # Sums of shares are off by less than a token's millionth.
        wanted = math.ceil(due * tokens - 1e-6) - int((~here).sum())
        found.append(float(row[here].sort(descending=True).values[wanted - 1]) if wanted > 0 else math.inf)
        here &= row < found[-1]
    return found


def left_at(values: Tensor, limits: Sequence[float]) -> list[float]:
    """Share of tokens that leave at each exit, the last included, by these thresholds."""
    here, shares = torch.ones(values.shape[1], dtype=torch.bool), list[float]()
    for row, limit in zip(values, limits):
        leave = here & (row >= limit)
        shares.append(float(leave.double().mean()))
        here &= ~leave
    return [*shares, float(here.double().mean())]


def mean(shares: Sequence[float], costs: Sequence[float]) -> float:
    """Mean cost of a token."""
    return sum(share * cost for share, cost in zip(shares, costs, strict=True))
