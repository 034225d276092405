"""How surprised a model is by a given text."""

from __future__ import annotations

import numpy as np

from workbench.metrics.divergence import log_softmax


def perplexity(logits: np.ndarray, tokens: np.ndarray) -> float:
    """Exponential of the mean negative log-likelihood of tokens; 1 is no surprise, the vocabulary's size is chance.

    Parameters
    ----------
    logits : array [tokens, vocabulary]
        Row i is the prediction of token i.
    tokens : int array [tokens]
    """
    logs = log_softmax(logits)
    return float(np.exp(-logs[np.arange(len(logs)), np.asarray(tokens)].mean()))
