"""Attention over a cache: the weighted sum of the values that a new token may see."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from workbench.models.attention import Scoring
from workbench_kernels.arithmetic import computes
from workbench_kernels.tree_attention.native import native_attention


def attend(
    query: Float[Tensor, "batch heads tokens head_dim"],
    keys: Float[Tensor, "batch kv_heads keys head_dim"],
    values: Float[Tensor, "batch kv_heads keys head_dim"],
    mask: Bool[Tensor, "*kv_heads tokens keys"] | None,
    scoring: Scoring,
) -> Float[Tensor, "batch heads tokens head_dim"]:
    """Weighted values [batch, heads, tokens, head_dim] over all given keys.

    Parameters
    ----------
    query : Tensor [batch, heads, tokens, head_dim]
    keys, values : Tensor [batch, kv_heads, keys, head_dim]
    mask : bool Tensor [tokens, keys] or [kv_heads, tokens, keys], or None
        True where visible.
    scoring : Scoring

    Notes
    -----
    Compiled where the model's passes are. Elsewhere queries that share a KV head are laid side by side, so that keys
    and values are read once and never repeated.
    """
    if computes(query):
        # A last key that everybody sees: all keys are visible.
        marks = query.new_ones(query.shape[2], 1, dtype=torch.uint8) if mask is None else mask.view(torch.uint8)
        return native_attention(query, keys, values, marks, scoring.scale, softcap=scoring.softcap, sinks=scoring.sinks)
    if not scoring.plain:
        return scoring.attend(query, keys, values, None if mask is None else ~mask)
    scale = scoring.scale
    groups = query.shape[1] // keys.shape[1]
    if groups == 1:
        mask = mask if mask is None or mask.dim() == 2 else mask[None]
        return F.scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=scale)
    tokens = query.shape[2]
    grouped = query.unflatten(1, (-1, groups)).flatten(2, 3)
    if mask is not None:
        mask = mask.repeat(groups, 1) if mask.dim() == 2 else mask.repeat(1, groups, 1)[None]
    out = F.scaled_dot_product_attention(grouped, keys, values, attn_mask=mask, scale=scale)
    return out.unflatten(2, (groups, tokens)).flatten(1, 2)


def chain_keys(count: int, held: int, window: int | None) -> float:
    """Keys that each of the last ``count`` tokens of a chain reads on average, of ``held``."""
    seen = range(held - count + 1, held + 1)
    return sum(seen if window is None else (min(keys, window) for keys in seen)) / count


def mean_keys(mask: Bool[Tensor, "*kv_heads tokens keys"] | None, keys: int) -> float:
    """Keys that a query reads on average."""
    return float(keys) if mask is None else float(mask.sum()) / (mask.numel() / mask.shape[-1])
