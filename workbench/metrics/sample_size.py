"""How many prompts a comparison would need, from the spread of those it has.

The logarithms of the prompts' ratios are taken as normal, with their median ``m`` and their standard deviation ``s``.

Source
------
Dixon and Mood, The Statistical Sign Test, 1946, for the power of the interval between order statistics, which leaves
out 1 where the sign test would; the half-width from the standard error of a median, that of a mean times
``sqrt(pi / 2)`` (Kenney and Keeping, Mathematics of Statistics, 1962).
"""

from __future__ import annotations

from math import ceil, log, pi
from statistics import NormalDist

import numpy as np

SMALLEST = 6
"""Fewest prompts whose interval reaches 95 %."""
LARGEST = 10_000


def spell_count(number: float) -> str:
    """What :func:`prompts_needed` gives, as text."""
    return "" if np.isnan(number) else f"{number:.0f}" if np.isfinite(number) else f"more than {LARGEST:,}"


def prompts_needed(ratios: np.ndarray, within: float | None = None, power: float = 0.8) -> float:
    """Prompts for a 95 % interval that leaves out 1, or for one of a given half-width.

    - The fewest ``n`` with ``P(B >= n - k + 1) >= power``, ``B`` binomial of ``n`` and ``p = Phi(abs(log m) / s)``, the
      chance that a prompt's ratio lies on the median's side of 1, and ``k`` the rank of the interval's lower bound: so
      often such a study's interval leaves out 1.
    - For the interval to reach from ``m / (1 + within)`` to ``m (1 + within)``, about
      ``n = (pi / 2) * (1.96 s / log(1 + within)) ** 2``.

    Parameters
    ----------
    ratios : array [prompt, repeat]
        Prompts without a positive, finite median are left out: a ratio has a logarithm or says nothing here.
    within : float, optional
        Half-width, as a share of the ratio.
    power : float

    Returns
    -------
    float
        A whole number, 6 at least; infinite for more than 10,000, NaN from fewer than three prompts or equal ones.
    """
    ratios = np.asarray(ratios, dtype=np.float64)
    medians = np.nanmedian(ratios[~np.isnan(ratios).all(1)], 1) if ratios.size else np.zeros(0)
    each = np.log(medians[(medians > 0) & np.isfinite(medians)])
    if len(each) < 3:
        return float("nan")
    middle, spread, normal = abs(float(np.median(each))), float(np.std(each, ddof=1)), NormalDist()
    if not spread:
        return float("nan")
    if within is not None:
        count = max(SMALLEST, ceil(pi / 2 * (normal.inv_cdf(0.975) * spread / log(1 + within)) ** 2))
        return float(count) if count <= LARGEST else float("inf")
    from scipy.stats import binom

    for first, last in ((SMALLEST, 300), (301, LARGEST)):
        counts = np.arange(first, last + 1)
        reached = binom.sf(counts - binom.ppf(0.025, counts, 0.5), counts, normal.cdf(middle / spread)) >= power
        if reached.any():
            return float(counts[reached][0])
    return float("inf")
