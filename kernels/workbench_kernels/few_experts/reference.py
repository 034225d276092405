"""What the kernel computes, in plain torch, written to be read."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

_ACTIVATIONS = {"silu": F.silu, "gelu": F.gelu, "gelu_tanh": lambda x: F.gelu(x, approximate="tanh")}


def reference_experts(
    gate_up: Sequence[Tensor], down: Sequence[Tensor], kind: str, rows: Tensor, indices: Tensor, weights: Tensor
) -> Tensor:
    """See :class:`workbench_kernels.few_experts.FewExperts`."""
    out = torch.zeros_like(rows)
    for row, chosen in enumerate(indices.tolist()):
        for place, expert in enumerate(chosen):
            if expert < len(down):
                gate, up = (gate_up[expert] @ rows[row]).chunk(2)
                out[row] += weights[row, place] * (down[expert] @ (_ACTIVATIONS[kind](gate) * up))
    return out
