"""The plain twin of the op: the whole mask, the whole matrix of weights, every key repeated for its queries.

Slow and only for tests: run it in float64 to judge the other paths.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def reference_attention(
    query: Float[Tensor, "batch heads tokens head_dim"],
    keys: Float[Tensor, "batch kv_heads held head_dim"],
    values: Float[Tensor, "batch kv_heads held head_dim"],
    ancestors: Bool[Tensor, "tokens tokens"],
    scale: float,
    dtype: torch.dtype = torch.float32,
    softcap: float | None = None,
    sinks: Float[Tensor, " heads"] | None = None,
) -> Float[Tensor, "batch heads tokens head_dim"]:
    """Weighted values from a softmax over whole rows, computed and returned in `dtype`.

    With `softcap` a score becomes ``softcap * tanh(score / softcap)``; with `sinks` a score of each head stands beside
    those of the keys.
    """
    groups, tokens, held = query.shape[1] // keys.shape[1], query.shape[2], keys.shape[2]
    mask = torch.ones(tokens, held, dtype=torch.bool, device=query.device)
    mask[:, held - tokens :] = ancestors | torch.eye(tokens, dtype=torch.bool, device=query.device)
    keys = keys.to(dtype).repeat_interleave(groups, 1)
    values = values.to(dtype).repeat_interleave(groups, 1)
    logits = scale * (query.to(dtype) @ keys.transpose(2, 3))
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    logits = logits.masked_fill(~mask, -torch.inf)
    if sinks is not None:
        beside = sinks.to(dtype)[None, :, None, None].expand(*logits.shape[:-1], 1)
        return torch.softmax(torch.cat((logits, beside), -1), -1)[..., :-1] @ values
    return torch.softmax(logits, -1) @ values
