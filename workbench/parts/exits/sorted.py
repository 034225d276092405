"""Low-rank changes of a model's weights with which its first layers, and its first neurons, are models of their own.

Source
------
Valipour et al., Sorted LLaMA: Unlocking the Potential of Intermediate Layers of Large Language Models for Dynamic
Inference, 2023, arXiv 2309.08968; Valipour et al., SortedNet, 2023, arXiv 2309.00255. The low-rank change of a weight:
Hu et al., LoRA, 2021, arXiv 2106.09685.

``W' = W + U D`` for every linear map of a block. The sub-model of n layers is the first n blocks, the final norm and
the unembedding; that of a share of the width keeps in every MLP the first neurons of an order of importance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from workbench.errors import SettingError
from workbench.models import Block, Model
from workbench.models.projection import some_inputs, some_outputs
from workbench.models.variant import named_weights

KINDS = ("query_key_value", "attention_output", "up", "down")
"""Linear maps of a block that change."""


class SortedAdapter(nn.Module):
    """The trained change of all blocks of a dense model.

    Parameters
    ----------
    shapes : dict of str to (int, int)
        Outputs and inputs of every linear map that changes, by its name: :func:`shapes_of`.
    rank : int
    neurons : int
        Of a block's MLP.
    depths : sequence of int
        Layers of the sub-models, increasing.
    widths : sequence of float
        Shares of the MLPs' neurons of the sub-models, falling.

    Attributes
    ----------
    down, up : dict of str to Tensor
        Of a map of shape [outputs, inputs]: [rank, inputs] and [outputs, rank]. Their names in the ``state_dict`` are
        ``layers/0/up/in`` and ``layers/0/up/out``.
    order : int32 Tensor [layers, neurons], a buffer
        Neurons of every block, the most important first.
    depths, widths : Tensor, buffers
    acceptance : Tensor [widths, depths], a buffer
        Share of held-out places where a sub-model has the untouched model's first token.
    """

    order: Tensor
    depths: Tensor
    widths: Tensor
    acceptance: Tensor

    def __init__(
        self,
        shapes: dict[str, tuple[int, int]],
        rank: int,
        neurons: int,
        depths: Sequence[int],
        widths: Sequence[float],
    ) -> None:
        super().__init__()
        self.names = sorted(shapes)
        for name in self.names:
            outputs, inputs = shapes[name]
            # A module's names hold no dots.
            key = name.replace(".", "/")
            self.register_parameter(f"{key}/in", nn.Parameter(torch.randn(rank, inputs) * inputs**-0.5))
            self.register_parameter(f"{key}/out", nn.Parameter(torch.zeros(outputs, rank)))
        layers = len({name.split(".")[1] for name in shapes})
        self.register_buffer("order", torch.arange(neurons, dtype=torch.int32).repeat(layers, 1))
        self.register_buffer("depths", torch.tensor(depths, dtype=torch.int32))
        self.register_buffer("widths", torch.tensor(widths))
        self.register_buffer("acceptance", torch.zeros(len(widths), len(depths)))

    def changed(self, model: Model) -> dict[str, Tensor]:
        """Weights of a model with the change, by the names of :meth:`workbench.models.Model.variant`."""
        plain, made = named_weights(model.anatomy), {}
        for name in self.names:
            key, weight = name.replace(".", "/"), plain[f"{name}.weight"]
            low, high = self.get_parameter(f"{key}/in"), self.get_parameter(f"{key}/out")
            made[f"{name}.weight"] = (weight.to(low.dtype) + high @ low).to(weight.dtype)
        return made

    def kept(self, layer: int, width: float) -> Tensor:
        """Neurons of a block that a share of the width keeps, int Tensor, increasing."""
        count = max(1, round(width * self.order.shape[1]))
        return self.order[layer, :count].long().sort().values


def shapes_of(model: Model) -> dict[str, tuple[int, int]]:
    """Outputs and inputs of the linear maps that change, by name.

    Raises
    ------
    SettingError
        If a block of the model is not dense, or mixes tokens otherwise than by attention.
    """
    for block in model.anatomy.blocks:
        if block.router is not None or block.mixer.recurrent:
            raise SettingError(f"a sorted model is dense and attends; layer {block.index} of {model.name} is not so")
    kept = {
        name: tuple(value.shape)
        for name, value in named_weights(model.anatomy).items()
        if name.startswith("layers.") and name.endswith(tuple(f".{kind}.weight" for kind in KINDS))
    }
    return {name.removesuffix(".weight"): shape for name, shape in kept.items()}


def neurons_of(model: Model) -> int:
    """Neurons of every block's MLP.

    Raises
    ------
    SettingError
        If blocks have different numbers.
    """
    numbers = {block.down.weight.shape[1] for block in model.anatomy.blocks}
    if len(numbers) != 1:
        raise SettingError(f"blocks of {model.name} have MLPs of different widths: {sorted(numbers)}")
    return numbers.pop()


def sorted_model(model: Model, part: SortedAdapter, width: float = 1.0) -> Model:
    """The sub-model of all layers and a share ``width`` of the neurons of every MLP.

    It shares with ``model`` all that does not change.
    """
    whole = model.variant(weights=part.changed(model))
    blocks = whole.anatomy.blocks if width < 1 else []
    others = {block.index: narrowed(block, part.kept(block.index, width)) for block in blocks}
    return whole.variant(replace=others, name=f"{model.name} sorted")


def narrowed(block: Block, kept: Tensor) -> Block:
    """A block with some neurons only."""
    neurons = block.down.weight.shape[1]
    rows = torch.cat((kept, kept + neurons)) if block.gated else kept
    return replace(block, up=some_outputs(block.up, rows), down=some_inputs(block.down, kept))


def depths_of(layers: int, every: int, shallowest: int) -> list[int]:
    """Layers of sub-models: every so many down from all of them."""
    return [*range(layers, min(shallowest, layers) - 1, -every)][::-1]


def widths_of(narrowest: float, count: int) -> list[float]:
    """Shares of the width: ``count`` in even steps from 1 down."""
    return [1 - (1 - narrowest) * place / max(1, count - 1) for place in range(count)]
