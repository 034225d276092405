"""Rotation of queries and keys to their positions.

Source
------
Su et al., RoFormer, 2021, arXiv 2104.09864.
"""

from __future__ import annotations

import torch
from torch import Tensor

from workbench_kernels import rotary
from workbench_kernels.arithmetic import computes

Rope = tuple[Tensor, Tensor]
"""Cosine and signed sine, each [tokens, 1, rotary_dim]."""


def rotate(x: Tensor, rope: Rope) -> Tensor:
    """Rotate ``x`` [batch, tokens, heads, head_dim] by (cosine, signed sine) [tokens, 1, rotary_dim].

    The sine of the first half carries the minus sign, which saves a negation. Dimensions beyond ``rotary_dim`` pass
    unchanged.
    """
    cosine, sine = rope
    if computes(x):
        turned = rotary.rotate(x, cosine, sine)
        if turned is not None:
            return turned
    width = cosine.shape[-1]
    turned = x if width == x.shape[-1] else x[..., :width]
    first, second = turned.chunk(2, -1)
    # OLMo 2 keeps its tables in float32.
    out = torch.addcmul(turned * cosine, torch.cat((second, first), -1), sine).to(x.dtype)
    return out if width == x.shape[-1] else torch.cat((out, x[..., width:]), -1)


def apart(x: Tensor, width: int) -> Tensor:
    """``x`` [..., head_dim] with the pairs of neighbours among its first ``width`` dimensions torn apart: the first of
    all pairs in front, the second behind them."""
    turned = x[..., :width].unflatten(-1, (-1, 2)).transpose(-1, -2).flatten(-2)
    return turned if width == x.shape[-1] else torch.cat((turned, x[..., width:]), -1)
