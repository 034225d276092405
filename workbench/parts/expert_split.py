"""How a dense model is cut into experts, and what the cut learns: routers, and stand-ins for experts that do not run.

:mod:`workbench.models.split` makes a model of it; here is the same sum over all neurons, with those of the experts that
do not run masked out, which has a derivative.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workbench.errors import SettingError
from workbench.models import Block, Model
from workbench.models.split import ALIGNED, UNIT

NAME = "expert_split"


class ExpertSplit(nn.Module):
    """Which neurons of each layer are shared and which are whose, a router and the stand-ins of every layer.

    Parameters
    ----------
    dense, layers, width, neurons : int
        Layers that stay dense, the first ones, and those that are split; width and neurons of the dense model.
    experts : int
    shared : int
        Neurons that every token runs; the experts have the same number each of the others.
    rank : int
        Neurons of a stand-in.
    """

    always: Tensor
    grouped: Tensor

    def __init__(self, dense: int, layers: int, width: int, neurons: int, experts: int, shared: int, rank: int) -> None:
        super().__init__()
        self.dense = dense
        order = torch.arange(neurons, dtype=torch.int32).expand(layers, -1)
        self.register_buffer("always", order[:, :shared].clone())
        self.register_buffer("grouped", order[:, shared:].reshape(layers, experts, -1).clone())
        self.router = nn.Parameter(torch.zeros(layers, experts, width))
        self.stand_gate = nn.Parameter(torch.randn(layers, experts, rank, width) / width**0.5)
        self.stand_up = nn.Parameter(torch.randn(layers, experts, rank, width) / width**0.5)
        self.stand_down = nn.Parameter(torch.zeros(layers, experts, width, rank))

    def owners(self, layer: int) -> Tensor:
        """The expert of each neuron [neurons] of a split layer, and the number of experts for the shared ones."""
        grouped = self.grouped[layer].long()
        owner = grouped.new_full((self.always.shape[1] + grouped.numel(),), len(grouped))
        numbers = torch.arange(len(grouped), device=grouped.device).repeat_interleave(grouped.shape[1])
        return owner.scatter(0, grouped.flatten(), numbers)

    def forward(self, block: Block, normed: Tensor, chosen: int) -> Tensor:
        """What a layer's MLP makes of ``normed`` [..., width] when each row runs its first ``chosen`` experts.

        The choice is hard, and its derivative that of a sigmoid around the last one that runs.
        """
        layer = block.index - self.dense
        logits = F.linear(normed, self.router[layer]).float() / UNIT
        runs = _first(logits, chosen)
        rests = 1 - runs
        gate, up = (F.linear(normed, stand[layer].flatten(0, 1)) for stand in (self.stand_gate, self.stand_up))
        stand = (F.silu(gate) * up).unflatten(-1, (len(self.grouped[layer]), -1)) * rests[..., None]
        whole = F.pad(runs, (0, 1), value=1.0)[..., self.owners(layer)]
        inner = block.activation(block.up(normed), block.gated)
        down = self.stand_down[layer].transpose(0, 1).flatten(1)
        return block.down(inner * whole.to(inner.dtype)) + F.linear(stand.flatten(-2), down).to(inner.dtype)


def _first(logits: Tensor, chosen: int) -> Tensor:
    """1 for the first ``chosen`` of each row and 0 for the others [..., experts], with a derivative."""
    experts = logits.shape[-1]
    if chosen == experts:
        return torch.ones_like(logits)
    ordered, places = logits.sort(-1, descending=True)
    hard = torch.zeros_like(logits).scatter(-1, places[..., :chosen], 1.0)
    border = (ordered[..., chosen - 1 : chosen] + ordered[..., chosen : chosen + 1]).detach() / 2
    soft = torch.sigmoid(logits - border)
    return hard + soft - soft.detach()


def divisible(model: Model, dense: int, experts: int, chosen: int, shared: int, rank: int) -> int:
    """Neurons of each MLP of a model, which can be split so.

    Raises
    ------
    SettingError
        If it is no Llama without biases, or its neurons cannot be dealt evenly.
    """
    config = model.anatomy.config
    if config.model_type != "llama" or config.mlp_bias or config.attention_bias:
        raise SettingError(f"only a Llama without biases can be split into experts, not {model.name}")
    neurons = config.intermediate_size
    if dense >= model.layers:
        raise SettingError(f"of {model.layers} layers at most {model.layers - 1} can stay dense, not {dense}")
    if chosen > experts:
        raise SettingError(f"of {experts} experts a token can run 1 … {experts}, not {chosen}")
    if experts & (experts - 1):
        raise SettingError(f"the number of experts must be a power of two, not {experts}: only then is their sum exact")
    each, rest = divmod(neurons - shared, experts)
    if each < 1 or rest:
        raise SettingError(
            f"{neurons} neurons less {shared} shared ones cannot be dealt evenly to {experts} experts: choose others"
        )
    if (each + rank) % ALIGNED:
        raise SettingError(
            f"an expert of {each} neurons and a stand-in of {rank} have no multiple of {ALIGNED} together, which "
            "transformers needs: choose other shared neurons or another rank"
        )
    return neurons


def split_blocks(model: Model, part: ExpertSplit, chosen: int) -> list[Block]:
    """The model's blocks with ``part``'s MLPs, differentiable."""
    blocks = model.anatomy.blocks
    return blocks[: part.dense] + [
        replace(block, up=_Same(), activation=_same, down=_Mlp(block, part, chosen)) for block in blocks[part.dense :]
    ]


class _Same:
    def __call__(self, x: Tensor) -> Tensor:
        return x


def _same(x: Tensor, gated: bool) -> Tensor:
    return x


class _Mlp:
    def __init__(self, block: Block, part: ExpertSplit, chosen: int) -> None:
        self._given: tuple[Any, ...] = block, part, chosen

    def __call__(self, normed: Tensor) -> Tensor:
        block, part, chosen = self._given
        return part(block, normed, chosen)
