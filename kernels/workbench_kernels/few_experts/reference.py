"""What the kernel computes, in plain torch, written to be read."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

_ACTIVATIONS = {"silu": F.silu, "gelu": F.gelu, "gelu_tanh": lambda x: F.gelu(x, approximate="tanh")}


def few_experts(
    rows: Tensor, tokens: Sequence[int], gate_up: Sequence[Tensor], down: Sequence[Tensor], weights: Tensor, kind: str
) -> Tensor:
    """See :func:`workbench_kernels.few_experts.few_experts`."""
    out = torch.zeros_like(rows)
    for token, into, back, weight in zip(tokens, gate_up, down, weights, strict=True):
        gate, up = (into @ rows[token]).chunk(2)
        out[token] += weight * (back @ (_ACTIVATIONS[kind](gate) * up))
    return out
