"""Medians with paired bootstrap intervals over prompts and repeats.

Source
------
Efron, Bootstrap Methods: Another Look at the Jackknife, 1979; the percentile interval. Prompts are drawn with
replacement and, within each drawn prompt, its repeats: the two levels at which a timing varies. A comparison is paired
before it comes here: every value is a ratio or a difference of two runs on the same prompt in the same repeat.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SAMPLES = 2000
_AT_ONCE = 2_000_000  # values drawn at once, to bound the memory


@dataclass(frozen=True)
class Interval:
    """A median and the bounds of its interval; ``low <= median <= high``, or all NaN where nothing was measured."""

    median: float
    low: float
    high: float


def bootstrap_median(values: np.ndarray, level: float = 0.95, samples: int = SAMPLES, seed: int = 0) -> Interval:
    """Median of all values with its percentile interval.

    Parameters
    ----------
    values : array [prompt, repeat]
        NaN where a run failed or was not reached: such values are left out, and prompts without any other too.
    level : float
        Share of the resampled medians within the bounds.
    samples : int
        Bootstrap samples.
    seed : int
        One seed, one interval.

    Notes
    -----
    With few values the percentiles of a median can miss the median itself; the bounds are then moved to include it.
    With one value there is nothing to resample and all three are that value.
    """
    values = np.asarray(values, dtype=np.float64)
    values = values[~np.isnan(values).all(1)]
    if not values.size:
        return Interval(np.nan, np.nan, np.nan)
    median = float(np.nanmedian(values))
    medians = resampled_medians(values, samples, np.random.default_rng(seed))
    low, high = np.quantile(medians, [(1 - level) / 2, (1 + level) / 2])
    return Interval(median, min(float(low), median), max(float(high), median))


def resampled_medians(values: np.ndarray, samples: int, generator: np.random.Generator) -> np.ndarray:
    """Medians [samples] of prompts drawn with replacement and, within each, of its repeats drawn so.

    Parameters
    ----------
    values : array [prompt, repeat]
        At least one value in every row; NaN are never drawn.
    """
    present = ~np.isnan(values)
    count = present.sum(1)
    # The values of every prompt first, so that a draw below its count never meets a NaN.
    packed = np.take_along_axis(values, np.argsort(~present, 1, kind="stable"), 1)
    prompts, repeats = values.shape
    medians = []
    for start in range(0, samples, max(1, _AT_ONCE // values.size)):
        size = min(samples - start, max(1, _AT_ONCE // values.size))
        drawn = generator.integers(prompts, size=(size, prompts))
        held = count[drawn][..., None]
        places = (generator.random((size, prompts, repeats)) * held).astype(int)
        taken = packed[drawn[..., None], places].astype(np.float64)
        # A prompt with fewer values counts with as many draws as it has.
        taken[np.broadcast_to(np.arange(repeats) >= held, taken.shape)] = np.nan
        taken = taken.reshape(size, -1)
        medians.append(np.median(taken, 1) if present.all() else np.nanmedian(taken, 1))
    return np.concatenate(medians)
