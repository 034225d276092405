"""Whether confidences are true: how often what is held with a confidence turns out right.

Source
------
Expected calibration error over bins of one width: Guo et al., On Calibration of Modern Neural Networks, 2017, arXiv
1706.04599. Intervals of shares: Wilson, Probable inference, the law of succession, and statistical inference, 1927.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BINS = 10
_NORMAL = 1.959964  # half width of a 95 % interval in standard deviations


@dataclass(frozen=True)
class Reliability:
    """Confidences in bins of one width from 0 to 1.

    Attributes
    ----------
    count : int array [bins]
    confidence, share : float array [bins]
        Mean confidence, and share that was right; NaN where a bin is empty.
    low, high : float array [bins]
        95 % interval of the share, after Wilson.
    """

    count: np.ndarray
    confidence: np.ndarray
    share: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @property
    def error(self) -> float:
        """Expected calibration error: the distance of confidence and share, mean over all that was counted; NaN of
        nothing."""
        filled = self.count > 0
        if not filled.any():
            return float("nan")
        apart = np.abs(self.share - self.confidence)[filled]
        return float((apart * self.count[filled]).sum() / self.count.sum())


def reliability(confidence: np.ndarray, right: np.ndarray, bins: int = BINS) -> Reliability:
    """Confidences [any] from 0 to 1, and whether what they were about was right [any], in bins; 1 is in the last."""
    sure, hit = np.asarray(confidence, dtype=float).ravel(), np.asarray(right, dtype=float).ravel()
    place = np.clip((sure * bins).astype(int), 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean, share = (np.bincount(place, weights=values, minlength=bins) / count for values in (sure, hit))
        spread = _NORMAL**2 / count
        middle = (share + spread / 2) / (1 + spread)
        half = _NORMAL / (1 + spread) * np.sqrt(share * (1 - share) / count + spread / (4 * count))
    return Reliability(count, mean, share, middle - half, middle + half)


def calibration_error(confidence: np.ndarray, right: np.ndarray, bins: int = BINS) -> float:
    """Expected calibration error of confidences [any] from 0 to 1; NaN of none."""
    return reliability(confidence, right, bins).error
