"""Which neurons of each dense MLP will fire for a row: a small predictor for every layer, and what it learns to say.

Source
------
Elkerdawy, Elhoushi, Zhang, Ray, Fire Together Wire Together: A Dynamic Pruning Approach with Self-Supervised Mask
Prediction, 2022, arXiv 2110.08232; github.com/selkerdawy/FTWT.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workbench.errors import SettingError
from workbench.models import Block, Model
from workbench.parts.loading import check_fit, linear, part_tensors, sizes

NAME = "neuron_gate"


class NeuronPredictor(nn.Module):
    """For every dense layer two narrow linear maps with a SiLU between them, from what its MLP reads to a log-odds for
    each of its neurons.

    Parameters
    ----------
    width : int
        Of the residual stream.
    neurons : mapping of int to int
        Layer -> neurons of its MLP.
    rank : int
        Numbers between the two maps.
    """

    def __init__(self, width: int, neurons: Mapping[int, int], rank: int) -> None:
        super().__init__()
        self.narrow = nn.ModuleDict({str(layer): nn.Linear(width, rank) for layer in neurons})
        self.wide = nn.ModuleDict({str(layer): nn.Linear(rank, count) for layer, count in neurons.items()})

    def forward(self, layer: int, normed: Tensor) -> Tensor:
        """Log-odds [..., neurons] that neurons of a layer are among those that fire.

        Parameters
        ----------
        layer : int
        normed : Tensor [..., width]
            What the layer's ``up`` multiplies.
        """
        return self.wide[str(layer)](F.silu(self.narrow[str(layer)](normed)))


def dense_neurons(model: Model) -> dict[int, int]:
    """Layer -> neurons of its MLP, of the layers that have one.

    Raises
    ------
    SettingError
        If there is none.
    """
    found = {block.index: block.down.weight.shape[1] for block in model.anatomy.blocks if block.down is not None}
    if not found:
        raise SettingError(f"{model.name} has no dense MLP whose neurons could be chosen: its layers have experts")
    return found


def read_of(block: Block, x: Tensor) -> Tensor:
    """What a block's ``up`` multiplies, of the residual stream ``x`` that its MLP reads."""
    return x if block.mlp_norm is None else block.mlp_norm(x)


def firing(block: Block, normed: Tensor) -> Tensor:
    """How strongly each neuron fires [rows, neurons]: the size of its activation, in float32."""
    return block.activation(block.up(normed), block.gated).float().abs()


def top_of_mass(strength: Tensor, mass: float) -> Tensor:
    """The fewest neurons of each row that hold a share ``mass`` of the row's sum: bool [rows, neurons].

    Parameters
    ----------
    strength : Tensor [rows, neurons]
        Not negative.
    mass : float
    """
    ordered, places = strength.sort(-1, descending=True)
    before = ordered.cumsum(-1) - ordered
    needed = (before < mass * ordered.sum(-1, keepdim=True)) & (ordered > 0)
    return torch.zeros_like(needed).scatter_(-1, places, needed)


def predictor_maps(model: Model, weights: str = "bundled", rank: int = 64) -> dict[int, tuple[Any, Any]]:
    """The two linear maps of every dense layer, in the model's dtype, multiplied as the model's own are.

    Parameters
    ----------
    model : Model
    weights : str
        ``bundled``, ``untrained`` or the path of a ``.safetensors`` file.
    rank : int
        Of an untrained one.

    Raises
    ------
    SettingError
        If the model has no dense MLP, or the file does not fit it.
    """
    neurons, width = dense_neurons(model), model.anatomy.width
    tensors = part_tensors(NAME, model, weights, lambda: NeuronPredictor(width, neurons, rank))
    first = next(iter(neurons))
    rank = sizes(tensors, f"narrow.{first}.weight", 2)[0]
    with torch.device("meta"):
        check_fit(NAME, model, NeuronPredictor(width, neurons, rank).state_dict(), tensors)
    multiply = model.anatomy.multiply
    return {
        layer: (linear(tensors, f"narrow.{layer}", multiply), linear(tensors, f"wide.{layer}", multiply))
        for layer in neurons
    }
