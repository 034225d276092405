"""Where a run wrote so much less than the baseline that their speeds are not of the same work."""

from __future__ import annotations

import numpy as np

SHARE = 0.5
"""A run stopped early on a prompt where it decoded less than this share of what the baseline decoded there."""
TOLERATED = 0.1
"""Share of the prompts that a run may miss and still be compared with others on its speed."""


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
    """Runs whose speed rests on the prompts that the baseline's rests on, save a tenth of them.

    A run that stopped early, failed or was not reached on more is judged by the prompts that are left, and must not win
    a comparison by that.

    Parameters
    ----------
    new_tokens : array [run, prompt]
    baseline : array [prompt]
        See :func:`stopped_early`.

    Returns
    -------
    bool array [run]
    """
    decoded = np.asarray(baseline) > 1
    missed = stopped_early(new_tokens, baseline) | np.isnan(new_tokens)
    return (missed & decoded).sum(-1) <= TOLERATED * decoded.sum()
