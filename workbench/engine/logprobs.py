"""What a step reports of the distributions that its tokens were chosen from."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from workbench.models.device import read

TokenLogprobs = tuple[tuple[int, ...], tuple[float, ...]]
"""Token ids and their log-probabilities [nats]."""


def top_logprobs(logits: Tensor, tokens: Sequence[int], k: int) -> tuple[TokenLogprobs, ...]:
    """The ``k`` most probable tokens of every row, and the row's own token where it is none of them.

    Parameters
    ----------
    logits : Tensor [tokens, vocabulary]
    tokens : sequence of int
        What was chosen from each row.
    k : int

    Returns
    -------
    tuple of (tuple of int, tuple of float)
        For each row ids and log-probabilities [nats] of log softmax in float32, most probable first; a chosen token
        that is not among the first ``k`` stands behind them.
    """
    rows = logits.float().log_softmax(-1)
    best = rows.topk(min(k, rows.shape[-1]), -1)
    reported = []
    for row, token, ids, values in zip(rows, tokens, *read(best.indices, best.values), strict=True):
        if token not in ids:
            ids, values = [*ids, token], [*values, float(row[token])]
        reported.append((tuple(ids), tuple(values)))
    return tuple(reported)
