"""The routers: for every dense layer a linear map from what its MLP reads to three log-odds."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from workbench.models import Model
from workbench.models.projection import Projection
from workbench.parts.loading import check_fit, part_tensors
from workbench.parts.neuron_predictor import dense_neurons

ROUTER = "small_big_router"
"""Recipe and artefact."""

_BIAS = -2.0, 0.0, 0.127  # none is what hurts most; the big one has a chance of a half


class Routers(nn.Module):
    """For every dense layer a linear map to log-odds of none, small and big.

    Parameters
    ----------
    width : int
        Of the residual stream.
    layers : iterable of int
    spread : float
        Standard deviation of the log-odds of rows to begin with; all rows begin alike without.

    Notes
    -----
    ``level`` [1] is the log-odds of the big MLP above which a row takes it at a chance of a half: what was drawn in
    training, seven rows of ten say, is decided in use, and rows that all have a chance of 0.7 would all take it.
    Weights are over the width: a step of the optimiser, which is as large for a weight as for a bias, would else turn
    the log-odds of every row by more than all that is to be learned.
    """

    def __init__(self, width: int, layers: Iterable[int], spread: float = 0.0) -> None:
        super().__init__()
        self.router = nn.ModuleDict({str(layer): nn.Linear(width, 3) for layer in layers})
        with torch.no_grad():
            for each in self.router.values():
                each.weight.normal_().mul_(spread * width**0.5)
                each.bias.copy_(torch.tensor(_BIAS))
        self.register_buffer("level", torch.zeros(1))

    def forward(self, layer: int, normed: Tensor) -> Tensor:
        """Log-odds [..., 3] of none, small and big, from what the layer's ``up`` multiplies [..., width]."""
        return self.router[str(layer)](normed / normed.shape[-1])


def router_maps(model: Model, weights: str = "bundled") -> dict[int, Projection]:
    """The router of every dense layer, in the model's dtype, multiplied as the model's own maps are.

    Parameters
    ----------
    model : Model
    weights : str
        ``bundled``, ``untrained`` or the path of a ``.safetensors`` file.

    Raises
    ------
    SettingError
        If the model has no dense MLP, or the file does not fit it.
    """
    layers, width = dense_neurons(model), model.anatomy.width
    tensors = part_tensors(ROUTER, model, weights, lambda: Routers(width, layers, 0.5))
    with torch.device("meta"):
        check_fit(ROUTER, model, Routers(width, layers).state_dict(), tensors)
    multiply = model.anatomy.multiply
    level = torch.nn.functional.pad(tensors["level"], (2, 0))
    return {
        layer: Projection(tensors[f"router.{layer}.weight"] / width, tensors[f"router.{layer}.bias"] - level, multiply)
        for layer in layers
    }


def choose(odds: Tensor, chance: float) -> Tensor:
    """What each row takes [rows]: big where its chance is above ``chance``, else none or small, the likelier."""
    small = (odds[..., 1] >= odds[..., 0]).long()
    return torch.where(odds.float().softmax(-1)[..., 2] > chance, 2, small)


def margin(odds: Tensor) -> Tensor:
    """Log-odds of the big MLP against the two others together [...], from log-odds [..., 3]."""
    return odds[..., 2] - odds[..., :2].logsumexp(-1)
