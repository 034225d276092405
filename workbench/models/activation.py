"""The activation of an MLP, gated or not, compiled where the model's passes are."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from workbench_kernels.activation import activate
from workbench_kernels.arithmetic import computes

# Class of transformers' activation -> kind of the kernel. Those that are not here are torch's.
_KINDS = {"SiLUActivation": "silu", "SiLU": "silu", "GELUActivation": "gelu", "GELUTanh": "gelu_tanh"}


class Activation:
    """``activation(inner, gated)``: f(inner), or f(gate) * up of the two halves of the last dimension.

    Parameters
    ----------
    function : callable
        f, as transformers has it.

    Attributes
    ----------
    kind : str or None
        Of the compiled kernel, see :data:`workbench_kernels.activation.KINDS`; None where there is none.
    """

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function
        self.kind: str | None = _KINDS.get(type(function).__name__)

    def __call__(self, inner: Tensor, gated: bool) -> Tensor:
        if self.kind is not None and computes(inner):
            return activate(inner, self.kind, gated)
        if not gated:
            return self.function(inner)
        gate, up = inner.chunk(2, -1)
        return self.function(gate) * up


class ClampedSwiglu:
    """GPT-OSS's activation of an expert: gate and up stand in turn, both are clamped, and up is raised by one.

    ``(up + 1) * gate * sigmoid(alpha * gate)``; ``called(inner, gated)`` as an :class:`Activation` is.

    Parameters
    ----------
    alpha : float
    limit : float
        The gate is at most that, and up at most that far from zero.
    """

    def __init__(self, alpha: float, limit: float) -> None:
        self.alpha, self.limit = alpha, limit
        self._silu = Activation(nn.SiLU())

    def __call__(self, inner: Tensor, gated: bool) -> Tensor:
        gate, up = inner[..., ::2].clamp(max=self.limit), inner[..., 1::2].clamp(-self.limit, self.limit)
        return (up + 1) * (self._silu(gate * self.alpha, False) / self.alpha)
