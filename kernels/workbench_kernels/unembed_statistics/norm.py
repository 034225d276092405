"""The final norm in front of the unembedding, as data."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Norm:
    """A model's final norm: what it is and its parameters.

    Attributes
    ----------
    kind : {'rms', 'layer', 'none'}
        RMSNorm (Zhang and Sennrich, 2019, arXiv 1910.07467), LayerNorm (Ba, Kiros and Hinton, 2016, arXiv
        1607.06450), or rows that are already normed.
    weight, bias : Tensor [width] or None
        The gain and the shift; RMSNorm has no shift.
    eps : float
        Added to the mean square (RMSNorm) or to the variance (LayerNorm).
    offset : float
        Added to the gain: 1.0 for Gemma, whose stored weights are the gain less one.
    """

    kind: Literal["rms", "layer", "none"] = "none"
    weight: Tensor | None = None
    bias: Tensor | None = None
    eps: float = 1e-6
    offset: float = 0.0

    def check(self, width: int, device: torch.device) -> None:
        """Raise ValueError if this norm does not fit rows of `width` on `device`."""
        if self.kind not in ("rms", "layer", "none"):
            raise ValueError(f"Norm.kind is 'rms', 'layer' or 'none', not {self.kind!r}.")
        if self.kind == "none" and (self.weight is not None or self.bias is not None):
            raise ValueError("Norm(kind='none') takes no weight and no bias.")
        if self.kind == "rms" and self.bias is not None:
            raise ValueError("Norm(kind='rms') takes no bias.")
        for name, parameter in (("weight", self.weight), ("bias", self.bias)):
            if parameter is None:
                continue
            if parameter.shape != (width,):
                raise ValueError(f"Norm.{name} has shape {tuple(parameter.shape)}; the rows need ({width},).")
            if parameter.device != device:
                raise ValueError(f"Norm.{name} is on {parameter.device}; the rows are on {device}.")

    def __call__(self, rows: Float[Tensor, "rows width"], dtype: torch.dtype) -> Float[Tensor, "rows width"]:
        """The normed rows, computed in float32 (float64 if that is asked for) and then given as `dtype`."""
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        rows = rows.to(wide)
        if self.kind == "none":
            return rows.to(dtype)
        gain = None if self.weight is None else self.weight.to(wide) + self.offset
        if self.kind == "rms":
            return functional.rms_norm(rows, rows.shape[-1:], gain, self.eps).to(dtype)
        shift = None if self.bias is None else self.bias.to(wide)
        return functional.layer_norm(rows, rows.shape[-1:], gain, shift, self.eps).to(dtype)
