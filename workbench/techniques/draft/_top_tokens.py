"""The most probable tokens of many rows of logits, without sorting the vocabulary."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

_BLOCK = 64


def top_tokens(logits: Float[Tensor, "rows vocabulary"], k: int) -> Int[Tensor, "rows k"]:
    """The ``k`` tokens with the largest logits of every row, largest first.

    Parameters
    ----------
    logits : Tensor [rows, vocabulary]
    k : int
        At most the vocabulary.

    Returns
    -------
    int Tensor [rows, k]

    Notes
    -----
    The k largest entries stand in the k blocks with the largest maxima, so that only those blocks are looked at
    closely: a verification wants this of every row, and selecting from whole rows would cost a share of the step.
    """
    rows, vocabulary = logits.shape
    blocks = vocabulary // _BLOCK
    if blocks <= k:
        return logits.topk(k, -1).indices
    whole, rest = logits[:, : blocks * _BLOCK].unflatten(1, (blocks, _BLOCK)), logits[:, blocks * _BLOCK :]
    chosen = whole.amax(-1).topk(k, -1, sorted=False).indices
    values = whole.gather(1, chosen[:, :, None].expand(-1, -1, _BLOCK)).flatten(1)
    places = (chosen[:, :, None] * _BLOCK + torch.arange(_BLOCK, device=logits.device)).flatten(1)
    tail = torch.arange(blocks * _BLOCK, vocabulary, device=logits.device).expand(rows, -1)
    values, places = torch.cat((values, rest), 1), torch.cat((places, tail), 1)
    return places.gather(1, values.topk(k, -1).indices)
