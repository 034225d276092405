"""Kullback-Leibler divergence between next-token distributions."""

from __future__ import annotations

import numpy as np


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Natural logarithms, in float64, of the probabilities of logits [..., vocabulary]."""
    shifted = np.asarray(logits, dtype=np.float64)
    shifted = shifted - shifted.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def kl_divergence(reference: np.ndarray, other: np.ndarray) -> np.ndarray:
    """KL(reference || other) of every row [nats]: what is lost by coding the reference with the other distribution.

    Parameters
    ----------
    reference, other : array [..., vocabulary]
        Logits; log-probabilities serve as well. A token that the reference rules out (-inf) adds nothing.

    Returns
    -------
    array [...]
        Not negative; infinite where the other rules out a token that the reference allows.
    """
    p, q = log_softmax(reference), log_softmax(other)
    with np.errstate(invalid="ignore"):
        terms = np.exp(p) * (p - q)
    # Rounding leaves tiny negative sums where the two are equal.
    return np.maximum(np.where(np.isneginf(p), 0.0, terms).sum(-1), 0.0)
