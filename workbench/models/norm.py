"""The norm of a residual stream, of queries or of keys."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from workbench_kernels.arithmetic import computes
from workbench_kernels.rms_norm import rms_norm


@dataclass
class Norm:
    """A root-mean-square or layer norm.

    Attributes
    ----------
    kind : {"rms", "layer"}
    weight : Tensor [width]
        For Gemma already ``1 + weight``, in float32.
    bias : Tensor [width] or None
    eps : float
    late_cast : bool
        Whether the weight multiplies before the result is cast back (Gemma) or after (Llama).
    """

    kind: str
    weight: Tensor | None
    bias: Tensor | None
    eps: float
    late_cast: bool = False

    def __call__(self, x: Tensor) -> Tensor:
        if self.kind == "layer":
            return F.layer_norm(x, x.shape[-1:], self.weight, self.bias, self.eps)
        if self.weight is not None and computes(x):
            normed = rms_norm(x, self.weight, self.eps, self.late_cast)
            if normed is not None:
                return normed
        if x.dtype == torch.float32:
            return F.rms_norm(x, x.shape[-1:], self.weight, self.eps)
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return (wide * self.weight).to(x.dtype) if self.late_cast else self.weight * wide.to(x.dtype)
