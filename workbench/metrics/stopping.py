"""Where a run wrote so much less than the baseline that their speeds are not of the same work."""

from __future__ import annotations

import numpy as np

SHARE = 0.5
"""A run stopped early where it decoded less than this share of what the baseline decoded."""
TOLERATED = 0.1
"""Share of the prompts on which a run may have decoded nothing and still be compared with others on its speed."""


def stopped_early(new_tokens: np.ndarray, baseline: np.ndarray) -> np.ndarray:
    """Prompts on which a run decoded less than half of the baseline's tokens after the first.

    Parameters
    ----------
    new_tokens, baseline : array [..., prompt]
        Tokens written, the first included; NaN where there was no run.

    Returns
    -------
    bool array [..., prompt]
        False where either did not run.
    """
    return np.asarray(new_tokens) - 1 < SHARE * (np.asarray(baseline) - 1)


def covers(new_tokens: np.ndarray, baseline: np.ndarray) -> np.ndarray:
    """Runs whose speed rests on what the baseline's rests on, so that it may be compared with that of others.

    They decoded something on all the prompts on which the baseline did, save a tenth of them, and on these in all at
    least half as many tokens. A run that stopped at once, failed or was not reached on more is judged by what is left,
    and must not win by that.

    Parameters
    ----------
    new_tokens : array [run, prompt]
    baseline : array [prompt]
        See :func:`stopped_early`.

    Returns
    -------
    bool array [run]
    """
    decoded, reference = (np.nan_to_num(np.asarray(each) - 1) for each in (new_tokens, baseline))
    known = reference > 0
    missed = (known & (decoded <= 0)).sum(-1)
    return (missed <= TOLERATED * known.sum()) & ((decoded * known).sum(-1) >= SHARE * reference.sum())
