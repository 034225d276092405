"""The activation of an MLP, gated or not, compiled where the model's passes are."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

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
    """

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function
        self._kind = _KINDS.get(type(function).__name__)

    def __call__(self, inner: Tensor, gated: bool) -> Tensor:
        if self._kind is not None and computes(inner):
            return activate(inner, self._kind, gated)
        if not gated:
            return self.function(inner)
        gate, up = inner.chunk(2, -1)
        return self.function(gate) * up
