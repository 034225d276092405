"""How clearly the best token led: the scale on which a flip between two number formats is judged."""

from __future__ import annotations

import numpy as np


def margin(logits: np.ndarray) -> np.ndarray:
    """Largest logit less the second largest [logit], for every row.

    Parameters
    ----------
    logits : array [..., vocabulary]
        At least two tokens. Differences of logits are differences of log-probabilities [nats].
    """
    best = np.partition(np.asarray(logits, dtype=np.float64), -2, axis=-1)[..., -2:]
    return best[..., 1] - best[..., 0]
