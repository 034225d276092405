"""Medians over prompts with the exact interval between two of their order statistics.

Source
------
Thompson, On Confidence Ranges for the Median and Other Expectation Distributions for Populations of Unknown
Distribution Form, 1936: of ``n`` independent values the ``k``-th smallest and the ``k``-th largest hold the median of
the distribution between them with probability ``1 - 2 * sum_{i<k} binomial(n, i) / 2**n`` or more, whatever its shape.
A percentile bootstrap of a median holds less than it says where values are few.

Prompts are the independent values. The repeats of a prompt are not, so each prompt counts once, with the median of its
repeats. A comparison is paired before it comes here: every value is a ratio of two runs on the same prompt in the same
repeat.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import comb

import numpy as np

FEWEST = 5
"""Fewest prompts that have an interval: between the smallest and the largest of five lie 93.75 %."""


@dataclass(frozen=True)
class Interval:
    """A median over prompts, and the bounds of its interval.

    Attributes
    ----------
    median : float
        NaN where nothing was measured.
    low, high : float
        ``low <= median <= high``; NaN where fewer than :data:`FEWEST` prompts have a value, or the bounds coincide.
    n, of : int
        Prompts that have a value, of how many.
    level : float
        Probability with which such bounds hold the median of the distribution; NaN without bounds.
    """

    median: float
    low: float
    high: float
    n: int = 0
    of: int = 0
    level: float = np.nan

    @property
    def bounded(self) -> bool:
        """Whether there is an interval."""
        return not np.isnan(self.level)


def spell_interval(interval: Interval) -> str:
    """A ratio with its bounds where it has any, as text; nothing where nothing was measured."""
    if not interval.n:
        return ""
    return f"{interval.median:.2f}" + (f" [{interval.low:.2f}, {interval.high:.2f}]" if interval.bounded else "")


def measured(values: np.ndarray) -> np.ndarray:
    """Times, rates or their ratios, NaN where one is not positive and finite: no clock gives that."""
    values = np.asarray(values, dtype=np.float64)
    return np.where(np.isfinite(values) & (values > 0), values, np.nan)


def median_interval(values: np.ndarray, level: float = 0.95) -> Interval:
    """Median over prompts with the narrowest order-statistic interval of at least ``level``.

    Parameters
    ----------
    values : array [prompt, repeat]
        NaN where a run failed, was not reached or decoded nothing: such values are left out, and prompts without any
        other too.
    level : float
        Least probability that the bounds hold the median. Five prompts reach 0.9375 only: that interval is given for
        0.95 too, and says its own level.
    """
    values = np.asarray(values, dtype=np.float64)
    each = np.sort(np.nanmedian(values[~np.isnan(values).all(1)], 1)) if values.size else np.zeros(0)
    n, of = len(each), len(values)
    median = float(np.median(each)) if n else np.nan
    if n < FEWEST:
        return Interval(median, np.nan, np.nan, n, of)
    rank = max([k for k in range(1, n // 2 + 1) if order_statistic_level(n, k) >= level], default=1)
    low, high = float(each[rank - 1]), float(each[n - rank])
    if low == high:
        return Interval(median, np.nan, np.nan, n, of)
    return Interval(median, low, high, n, of, order_statistic_level(n, rank))


def order_statistic_level(n: int, rank: int) -> float:
    """Probability that the ``rank``-th smallest and largest of ``n`` independent values hold the median."""
    return 1 - 2 * sum(comb(n, i) for i in range(rank)) / 2**n
