"""The routers: for every dense layer a linear map from what its MLP reads to three log-odds."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from workbench.models import Model
from workbench.models.projection import Projection
from workbench.parts.loading import part_tensors
from workbench.parts.neuron_predictor import dense_neurons
from workbench.parts.small_big.small import check_fit

ROUTER = "small_big_router"
"""Recipe and artefact."""

_BIAS = -2.0, 0.0, 0.0  # none is what hurts most


class Routers(nn.Module):
    """For every dense layer a linear map to log-odds of none, small and big.

    Parameters
    ----------
    width : int
        Of the residual stream.
    layers : iterable of int
    """

    def __init__(self, width: int, layers: Iterable[int]) -> None:
        super().__init__()
        self.router = nn.ModuleDict({str(layer): nn.Linear(width, 3) for layer in layers})
        with torch.no_grad():
            for each in self.router.values():
                each.bias.copy_(torch.tensor(_BIAS))

    def forward(self, layer: int, normed: Tensor) -> Tensor:
        """Log-odds [..., 3] of none, small and big, from what the layer's ``up`` multiplies [..., width]."""
        return self.router[str(layer)](normed)


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
    tensors = part_tensors(ROUTER, model, weights, lambda: Routers(width, layers))
    with torch.device("meta"):
        check_fit(ROUTER, model, Routers(width, layers).state_dict(), tensors)
    multiply = model.anatomy.multiply
    return {
        layer: Projection(tensors[f"router.{layer}.weight"], tensors[f"router.{layer}.bias"], multiply)
        for layer in layers
    }


def choose(odds: Tensor, chance: float) -> Tensor:
    """What each row takes [rows]: big where its chance is above ``chance``, else none or small, the likelier."""
    small = (odds[..., 1] >= odds[..., 0]).long()
    return torch.where(odds.float().softmax(-1)[..., 2] > chance, 2, small)
