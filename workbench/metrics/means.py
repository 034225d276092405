"""Means over prompts, plain or of sums over sums, with an interval.

Source
------
Cochran, Sampling Techniques, 1977, chapter 6: the ratio of two sums and its standard error by linearisation,
``r = sum(y) / sum(x)``, ``e = (y - r x) / mean(x)``, ``s.e. = std(e) / sqrt(n)``; bounds from Student's t with
``n - 1`` degrees of freedom. A mean is the case ``x = 1``.

Where values are few and very skewed (a divergence that one prompt dominates), no interval of a mean holds its level;
this one falls short of 95 % by a few points then.
"""

from __future__ import annotations

import numpy as np

from workbench.metrics.intervals import FEWEST


def mean_interval(
    values: np.ndarray, wholes: np.ndarray | None = None, least: float = -np.inf, most: float = np.inf
) -> tuple[float, float, float]:
    """Mean over prompts, or sum over sum, and its 95 % interval.

    Parameters
    ----------
    values : array [prompt]
        Not finite where nothing is known: such prompts are left out.
    wholes : array [prompt], optional
        What the values are parts of: the result is then the sum of ``values`` over the sum of ``wholes``. Prompts where
        it is 0 are left out too.
    least, most : float
        What the quantity can be; bounds stay within.

    Returns
    -------
    tuple of float
        Mean, low, high. No bounds (NaN) of fewer than five prompts, or where all are equal.
    """
    from scipy.stats import t

    parts = np.asarray(values, dtype=np.float64)
    wholes = np.ones_like(parts) if wholes is None else np.asarray(wholes, dtype=np.float64)
    known = np.isfinite(parts) & (wholes > 0)
    parts, wholes = parts[known], wholes[known]
    if not len(parts):
        return (float("nan"),) * 3
    mean = float(parts.sum() / wholes.sum())
    spread = float(np.std(parts - mean * wholes, ddof=1) / wholes.mean()) if len(parts) > 1 else 0.0
    if len(parts) < FEWEST or spread <= 1e-12 * abs(mean):
        return mean, float("nan"), float("nan")
    half = float(t.ppf(0.975, len(parts) - 1)) * spread / np.sqrt(len(parts))
    return mean, max(mean - half, least), min(mean + half, most)
