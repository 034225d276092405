"""The plain twin of the op: every line is the definition, the logits of all rows stand in memory at once.

Slow and only for tests: run it in float64 to judge the other paths.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench_kernels.unembed_statistics.norm import Norm


def reference_statistics(
    rows: Float[Tensor, "rows width"],
    weight: Float[Tensor, "vocabulary width"],
    norm: Norm,
    bias: Float[Tensor, " vocabulary"] | None,
    scale: float,
    softcap: float | None,
    target: Int[Tensor, " rows"] | None,
    top_k: int,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Tensor | None]:
    """All statistics from whole rows of logits, computed in `dtype`.

    Returns
    -------
    dict
        The fields of `UnembedStatistics`, in `dtype`.
    """
    logits = norm(rows, dtype) @ weight.to(dtype).T
    if bias is not None:
        logits = logits + bias.to(dtype)
    logits = logits * scale
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    log_probability = torch.log_softmax(logits, -1)
    ordered = torch.sort(logits, dim=-1, descending=True, stable=True)
    result: dict[str, Tensor | None] = {
        "top_ids": ordered.indices[:, :top_k],
        "top_logits": ordered.values[:, :top_k],
        "log_sum_exp": torch.logsumexp(logits, -1),
        "entropy": -(log_probability.exp() * log_probability).sum(-1),
        "target_logit": None,
        "target_rank": None,
    }
    if target is not None:
        result["target_logit"] = logits.gather(1, target[:, None])[:, 0]
        result["target_rank"] = (ordered.indices == target[:, None]).long().argmax(-1)
    return result
