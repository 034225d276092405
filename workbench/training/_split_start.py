"""From where the split of a dense model begins to learn: shared neurons, experts and routers, of some text alone."""

from __future__ import annotations

import torch
from torch import Tensor

from workbench.models import Block, Model
from workbench.models.split import UNIT
from workbench.parts.neuron_predictor import firing, read_of
from workbench.training._co_firing import co_firing
from workbench.training._forward import residual

_RIDGE = 3e-3  # of the mean square of what a router reads


@torch.no_grad()
def split_start(model: Model, tokens: Tensor, dense: int, experts: int, shared: int) -> dict[str, Tensor]:
    """Tensors ``always``, ``grouped`` and ``router`` of an :class:`workbench.parts.expert_split.ExpertSplit`.

    Parameters
    ----------
    model : Model
        Dense.
    tokens : int Tensor [texts, tokens]
    dense, experts, shared : int
        First layers that stay dense, experts, and neurons that none of them has.
    """
    # Neurons are put together by what a router can know of them: the part of their strength that is linear in what it
    # reads.
    generator = torch.Generator().manual_seed(0)
    layers: dict[int, tuple[Tensor, ...]] = {}

    def seen(block: Block, x: Tensor) -> None:
        if block.index < dense:
            return
        normed = read_of(block, x)
        strength = added(block, normed)
        order = strength.square().mean(0).argsort(descending=True)
        always, rest = order[:shared].sort().values, order[shared:].sort().values
        read, fires = normed.float(), strength[:, rest]
        fires = (fires - fires.mean(0)) / fires.std(0).clamp_min(1e-12)
        grouped = rest[co_firing(read @ foretelling(read, fires).t(), experts, generator)]
        layers[block.index] = always, grouped, foretelling(read, shares(strength, grouped))

    residual(model.anatomy, tokens, choose=lambda block: _Reading(block, seen))
    always, grouped, router = (torch.stack(each) for each in zip(*(layers[layer] for layer in sorted(layers))))
    return {"always": always.int(), "grouped": grouped.int(), "router": UNIT * router}


def added(block: Block, normed: Tensor) -> Tensor:
    """How much each neuron adds to what the MLP gives [rows, neurons]: the length of its vector."""
    return firing(block, normed) * block.down.weight.float().norm(dim=0)


def shares(strength: Tensor, grouped: Tensor) -> Tensor:
    """Logarithm of the energy of each expert [rows, experts], its neurons' vectors taken to be orthogonal, less what
    all of a row have in common."""
    logarithm = strength.square()[:, grouped].sum(-1).clamp_min(1e-12).log()
    return logarithm - logarithm.mean(-1, keepdim=True)


def foretelling(read: Tensor, target: Tensor) -> Tensor:
    """The linear map [outputs, width] without a bias that comes closest to ``target`` [rows, outputs]."""
    products = read.t() @ read
    ridge = _RIDGE * products.diagonal().mean() + 1e-6
    return torch.linalg.solve(products + ridge * torch.eye(len(products), device=read.device), read.t() @ target).t()


class _Reading:
    """Asked which neurons run, it answers all, and shows what the MLP reads."""

    def __init__(self, block: Block, see) -> None:
        self._block, self._see = block, see

    def neurons(self, x: Tensor) -> None:
        self._see(self._block, x)
