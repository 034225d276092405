"""Give every token, at every layer, the big MLP, a small one beside it, or none, as a trained router says.

Paper
-----
Alizadeh et al., Duo-LLM: A Framework for Studying Adaptive Computation in Large Language Models, 2024, arXiv
2410.10846.

Formula
-------
Of what a layer's MLP reads, x, with one linear map of three outputs for each layer::

    p = softmax(W x + b)                                    over none, small, big
    added to the stream = big(x)      where p[big] > chance
                          small(x)    else, where p[small] >= p[none]
                          0           else

Deviates
--------
The paper trains a model from nothing with a small module in each layer; here the model is a finished one and frozen,
and the small MLPs are distilled from its own (:mod:`workbench.training.small_mlps`), so that a token that takes them
often loses more than in the paper. As there, routers are trained on what the model says at the end
(:mod:`workbench.training.small_big_router`), but the likeliest module is not scaled by its probability: a frozen model
knows its MLPs at full size. ``chance`` can be set after the training. The oracle that the paper holds routers against
is :func:`workbench.studies.routing_gap.routing_gap`.
"""

from __future__ import annotations

from typing import Annotated, Self

import torch
from pydantic import Field
from torch import Tensor

from workbench.engine import Run
from workbench.engine.ledger import POLICY, Ledger
from workbench.engine.slots import MlpPolicy, StandInPolicy
from workbench.models import Block
from workbench.models.projection import Projection
from workbench.parts.neuron_predictor import read_of
from workbench.parts.small_big import BIG, SMALL, SmallMlp, router_maps, small_mlps
from workbench.parts.small_big.routers import choose
from workbench.settings import outside, settings
from workbench.techniques._technique import Technique, register


@register
@settings
class SmallBigRouter(Technique):
    """Each row of a pass is routed by itself alone: verified tokens are computed as decoded ones.

    Parameters
    ----------
    chance : float
        Chance of the big MLP above which a token takes it; 0 is always, and asks no router.
    weights : str
        The router: ``bundled``, ``untrained`` or the path of a ``.safetensors`` file.
    small : str
        The small MLPs, those that the router was trained with: ``bundled``, ``untrained`` or a file.

    Notes
    -----
    Router and small MLPs are counted (``policy_flops``, ``policy_bytes`` of a step); a big MLP is multiplied for the
    rows that take it, and its weights are not read where none does.
    """

    chance: Annotated[float, Field(ge=0, lt=1, description="chance of the big MLP above which it runs")] = 0.5
    weights: Annotated[str, outside("part", "router: bundled, untrained, or a file", min_length=1)] = "bundled"
    small: Annotated[str, outside("part", "small MLPs: bundled, untrained, or a file", min_length=1)] = "bundled"

    slots = ("mlp",)
    exact = False
    paper = "Alizadeh et al., Duo-LLM, 2024, arXiv 2410.10846"

    def start(self, run: Run) -> MlpPolicy:
        if self.chance == 0:
            return _Big()
        routers, small = router_maps(run.model, self.weights), small_mlps(run.model, self.small)
        return _Routed(routers, small, self.chance, run.ledger)

    @classmethod
    def neutral(cls) -> Self:
        return cls(chance=0)

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        made = {"weights": "untrained", "small": "untrained"}
        return cls(**made), cls(chance=0.6, **made)


class _Big(MlpPolicy):
    def neurons(self, block: Block, x: Tensor) -> Tensor | None:
        return None


class _Routed(_Big, StandInPolicy):
    def __init__(
        self, routers: dict[int, Projection], small: dict[int, SmallMlp], chance: float, ledger: Ledger
    ) -> None:
        self._routers, self._small, self._chance, self._ledger = routers, small, chance, ledger

    def stand_in(self, block: Block, x: Tensor) -> tuple[Tensor, Tensor] | None:
        router, small, ledger = self._routers[block.index], self._small[block.index], self._ledger
        with ledger.timed(POLICY):
            normed = read_of(block, x)
            kinds = choose(router(normed), self._chance)
            ledger.product(POLICY, len(x), router)
            added, fewer = torch.zeros_like(x), (kinds == SMALL).nonzero()[:, 0]
            if len(fewer):
                added.index_copy_(0, fewer, small(block, normed[fewer]))
                ledger.count(POLICY, small.flops(len(fewer)), small.bytes(len(fewer)))
            return (kinds == BIG).nonzero()[:, 0], added
