"""Attention over a cache: which keys a new token may see, and the weighted sum of their values."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from workbench.engine.state import KeyValueState
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


def visible(
    layer: KeyValueState,
    count: int,
    positions: Int[Tensor, " tokens"],
    tree: Bool[Tensor, "tokens tokens"] | None,
    window: int | None,
) -> Bool[Tensor, "*kv_heads tokens keys"] | None:
    """Mask [tokens, keys] or [kv_heads, tokens, keys]: True where a key is visible to a new token; None if all are."""
    held = layer.length
    valid = layer.valid
    if count == 1 and valid is None and (window is None or (held <= window and layer.contiguous)):
        return None
    own = torch.ones(count, count, dtype=torch.bool, device=positions.device).tril() if tree is None else tree
    mask = torch.cat((own.new_ones(count, held - count), own), 1)
    if valid is not None:
        mask = mask & valid[:, None]
    if window is None:
        return mask
    # Nodes of a tree stand at their depth, not at their place in the cache.
    earlier = layer.positions[:, : held - count]
    stands = torch.cat((earlier, positions.expand(earlier.shape[0], -1)), 1)
    distance = positions[:, None] - stands[:, None, :]
    mask = mask & (distance < window)
    return mask[0] if mask.shape[0] == 1 else mask


def node_depths(parents: Sequence[int] | None, count: int) -> list[int]:
    """Distance of each token of a pass from its first one; of a chain, where ``parents`` is None, its place."""
    if parents is None:
        return list(range(count))
    depths: list[int] = []
    for parent in parents:
        depths.append(0 if parent < 0 else depths[parent] + 1)
    return depths


def ancestors(parents: Sequence[int], count: int, device: torch.device) -> Tensor:
    """bool Tensor [tokens, tokens]: True where the column's token is the row's own or an ancestor of it."""
    rows = []
    for node, parent in enumerate(parents):
        row = list(rows[parent]) if parent >= 0 else [False] * count
        row[node] = True
        rows.append(row)
    return torch.tensor(rows, device=device)
