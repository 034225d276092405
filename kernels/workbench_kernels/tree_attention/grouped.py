"""The fast path in plain torch, made for the CPU: one call of torch's fused attention.

Queries that share a KV head are laid side by side, so that keys and values are read once and never repeated. The mask
is additive and of the query's dtype, for torch makes that out of a bool one in every call, and here a step's layers
share theirs. The other way is two calls, the cache without a mask and the tree with one, merged by their log-sum-exps:
it reads no mask over the cache, but splits the work, takes small operations more in every layer and needs an operator
that torch keeps private. ``tests/benchmarks/bench_tree_attention.py`` compares the two.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional


def additive_mask(
    visible: Bool[Tensor, "tokens tokens"], held: int, groups: int, dtype: torch.dtype
) -> Float[Tensor, "rows held"]:
    """The mask for `grouped_attention`, rows = groups * tokens: 0 where a query may look, minus infinity elsewhere."""
    tokens = len(visible)
    mask = torch.zeros(groups, tokens, held, dtype=dtype, device=visible.device)
    mask[:, :, held - tokens :].masked_fill_(~visible, -torch.inf)
    return mask.flatten(0, 1)


def grouped_attention(
    query: Float[Tensor, "batch heads tokens head_dim"],
    keys: Float[Tensor, "batch kv_heads held head_dim"],
    values: Float[Tensor, "batch kv_heads held head_dim"],
    mask: Float[Tensor, "rows held"],
    scale: float,
) -> Float[Tensor, "batch heads tokens head_dim"]:
    """Weighted values; `mask` is that of `additive_mask`."""
    grouped = query.reshape(query.shape[0], keys.shape[1], -1, query.shape[3])
    out = functional.scaled_dot_product_attention(grouped, keys, values, attn_mask=mask, scale=scale)
    return out.reshape(query.shape)
