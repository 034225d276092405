"""How often two next-token distributions have the same best token."""

from __future__ import annotations

import numpy as np


def top1_agreement(reference: np.ndarray, other: np.ndarray) -> float:
    """Share of rows in [0, 1] whose largest logit is at the same token.

    Parameters
    ----------
    reference, other : array [rows, vocabulary]
        Logits or log-probabilities. The first of equal maxima counts, as in greedy decoding.
    """
    return float(np.mean(np.argmax(reference, -1) == np.argmax(other, -1)))
