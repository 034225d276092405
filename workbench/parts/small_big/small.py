"""The small MLPs: of the form of a layer's own, with few neurons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from workbench.models import Block, Model
from workbench.models.projection import Projection
from workbench.parts.loading import check_fit, linear, part_tensors, sizes
from workbench.parts.neuron_predictor import dense_neurons

SMALL_MLPS = "small_mlps"
"""Recipe and artefact."""
NONE, SMALL, BIG = 0, 1, 2
"""What a row takes at a layer."""


class SmallMlps(nn.Module):
    """For every dense layer an MLP with few neurons that reads what the big one reads, and gives what that adds.

    Parameters
    ----------
    width : int
        Of the residual stream.
    gated : mapping of int to bool
        Layer -> whether its MLP has a gate; the small one has one too then.
    neurons : int
        Of each small MLP.
    """

    def __init__(self, width: int, gated: Mapping[int, bool], neurons: int) -> None:
        super().__init__()
        self.up = nn.ModuleDict({str(layer): nn.Linear(width, neurons << gate) for layer, gate in gated.items()})
        self.down = nn.ModuleDict({str(layer): nn.Linear(neurons, width) for layer in gated})

    def forward(self, block: Block, normed: Tensor) -> Tensor:
        """What is added to the residual stream [..., width] in place of what the block's MLP adds.

        Parameters
        ----------
        block : Block
        normed : Tensor [..., width]
            What the block's ``up`` multiplies.
        """
        layer = str(block.index)
        return self.down[layer](block.activation(self.up[layer](normed), block.gated))


@dataclass
class SmallMlp:
    """One of them, multiplied as the model's own maps are; called as :meth:`SmallMlps.forward`."""

    up: Projection
    down: Projection

    def __call__(self, block: Block, normed: Tensor) -> Tensor:
        return self.down(block.activation(self.up(normed), block.gated))

    def flops(self, rows: int) -> int:
        return self.up.flops(rows) + self.down.flops(rows)

    def bytes(self, rows: int) -> int:
        return self.up.bytes(rows) + self.down.bytes(rows)


def gates_of(model: Model) -> dict[int, bool]:
    """Layer -> whether its MLP has a gate, of the dense layers.

    Raises
    ------
    SettingError
        If there is none.
    """
    return {layer: model.anatomy.blocks[layer].gated for layer in dense_neurons(model)}


def small_mlps(model: Model, weights: str = "bundled", neurons: int = 4) -> dict[int, SmallMlp]:
    """The small MLP of every dense layer, in the model's dtype.

    Parameters
    ----------
    model : Model
    weights : str
        ``bundled``, ``untrained`` or the path of a ``.safetensors`` file.
    neurons : int
        Of each, of untrained ones.

    Raises
    ------
    SettingError
        If the model has no dense MLP, or the file does not fit it.
    """
    gated, width = gates_of(model), model.anatomy.width
    tensors = part_tensors(SMALL_MLPS, model, weights, lambda: SmallMlps(width, gated, neurons))
    first = next(iter(gated))
    neurons = sizes(tensors, f"down.{first}.weight", 2)[1]
    with torch.device("meta"):
        check_fit(SMALL_MLPS, model, SmallMlps(width, gated, neurons).state_dict(), tensors)
    multiply = model.anatomy.multiply
    return {
        layer: SmallMlp(*(linear(tensors, f"{kind}.{layer}", multiply) for kind in ("up", "down"))) for layer in gated
    }
