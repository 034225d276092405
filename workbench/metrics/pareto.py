"""Which runs nobody beats on both counts."""

from __future__ import annotations

import numpy as np


def pareto_front(quality: np.ndarray, speed: np.ndarray, considered: np.ndarray | None = None) -> np.ndarray:
    """Runs for which no other is at least as good on both axes and better on one.

    Parameters
    ----------
    quality, speed : array [runs]
        More is better on both; negate a divergence or a time. A run with NaN on either is never on the front.
    considered : bool array [runs], optional
        Runs that take part; others are not on the front and push nobody off it.

    Returns
    -------
    bool array [runs]
        Equal runs are all on the front or all off it.
    """
    points = np.stack([np.asarray(quality, dtype=np.float64), np.asarray(speed, dtype=np.float64)], 1)
    if considered is not None:
        points = np.where(np.asarray(considered)[:, None], points, np.nan)
    known = ~np.isnan(points).any(1)
    no_worse = (points[:, None] >= points[None]).all(-1)
    better = (points[:, None] > points[None]).any(-1)
    return known & ~(no_worse & better).any(0)
