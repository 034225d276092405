"""Attention weights written out, for those who want to look at them."""

from __future__ import annotations

import torch
from torch import Tensor


def attention_rows(
    query: Tensor, key: Tensor, scale: float, window: int | None = None, rows: Tensor | None = None
) -> Tensor:
    """Causal attention weights of some queries over all keys of the same pass.

    Parameters
    ----------
    query : Tensor [batch, heads, tokens, head_dim]
    key : Tensor [batch, kv_heads, tokens, head_dim]
    scale : float
    window : int, optional
        Sliding window in tokens.
    rows : int Tensor [rows], optional
        Which queries; all by default.

    Returns
    -------
    Tensor [batch, heads, rows, tokens]
        float32; each row sums to one.
    """
    batch, heads, tokens, _ = query.shape
    rows = torch.arange(tokens, device=query.device) if rows is None else rows
    groups = heads // key.shape[1]
    asked = query[:, :, rows].unflatten(1, (-1, groups)).flatten(2, 3)
    scores = (asked @ key.transpose(-1, -2)).float().mul_(scale).view(batch, heads, len(rows), tokens)
    distance = rows[:, None] - torch.arange(tokens, device=query.device)
    hidden = distance < 0 if window is None else (distance < 0) | (distance >= window)
    return scores.masked_fill_(hidden, float("-inf")).softmax(-1)
