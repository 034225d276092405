"""The experts of a mixture-of-experts MLP, and what their chosen ones make of some rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from workbench.models.multiply import Multiply


@dataclass
class Router:
    """Router and experts of a mixture-of-experts MLP.

    Attributes
    ----------
    weight : Tensor [experts, width]
    chosen : int
        Experts per token.
    normalised : bool
        Whether the chosen experts' weights are made to sum to one.
    gate_up : Tensor [experts, 2 * inner, width]
    down : Tensor [experts, width, inner]
    bias : Tensor [experts] or None
        Of the router.
    gate_up_bias : Tensor [experts, 2 * inner] or None
    down_bias : Tensor [experts, width] or None
    """

    weight: Tensor
    chosen: int
    normalised: bool
    gate_up: Tensor
    down: Tensor
    bias: Tensor | None = None
    gate_up_bias: Tensor | None = None
    down_bias: Tensor | None = None


@dataclass
class SharedExpert:
    """A gated MLP that every token goes through beside the experts that its router chose.

    Attributes
    ----------
    gate_up : Tensor [2 * inner, width]
    down : Tensor [width, inner]
    gate : Tensor [1, width] or None
        The result is multiplied with the sigmoid of this product.
    """

    gate_up: Tensor
    down: Tensor
    gate: Tensor | None = None

    @property
    def elements(self) -> int:
        """Weight elements that every token multiplies."""
        return sum(part.numel() for part in (self.gate_up, self.down, self.gate) if part is not None)


def apply_experts(
    rows: Tensor,
    weights: Tensor,
    indices: Tensor,
    router: Router,
    shared: SharedExpert | None,
    activation: Callable[[Tensor, bool], Tensor],
    multiply: Multiply,
    fetch: Callable[[int], tuple[Tensor, Tensor]] | None = None,
) -> Tensor:
    """Weighted sum of what the chosen experts, and the shared one if there is one, make of ``rows`` [tokens, width].

    ``weights`` and ``indices``, each [tokens, any], say which experts a token has and how much each counts;
    ``fetch(expert)`` gives the weights of one, by default the router's own ``gate_up`` and ``down``.
    """
    weights = weights.to(rows.dtype)
    out = torch.zeros_like(rows)
    for expert in indices.unique().tolist():
        token, place = torch.where(indices == expert)
        gate_up_bias = None if router.gate_up_bias is None else router.gate_up_bias[expert]
        down_bias = None if router.down_bias is None else router.down_bias[expert]
        gate_up, down = (router.gate_up[expert], router.down[expert]) if fetch is None else fetch(expert)
        inner = activation(multiply(rows[token], gate_up, gate_up_bias), True)
        result = multiply(inner, down, down_bias)
        out.index_add_(0, token, result * weights[token, place, None])
    if shared is None:
        return out
    result = multiply(activation(multiply(rows, shared.gate_up), True), shared.down)
    if shared.gate is None:
        return out + result
    # The sigmoid as a softmax, which goes row by row: torch's sigmoid rounds whole vectors of rows in one way and what
    # is left over in another.
    gate = F.pad(multiply(rows, shared.gate).float(), (0, 1)).softmax(-1)[:, :1]
    return out + gate.to(rows.dtype) * result
