"""The split of a dense model into experts, from which ``smollm2-moe`` is built: see :mod:`workbench.models.split`.

Paper
-----
Lu et al., Dynamic-DINO: Fine-Grained Mixture of Experts Tuning for Real-time Open-Vocabulary Object Detection, 2025,
arXiv 2507.17436; Zhang et al., MoEfication: Transformer Feed-forward Layers are Mixtures of Experts, 2021, arXiv
2110.01786.

Over some training text, the neurons that add most to the residual stream are shared by all tokens; the others are put
together by how they fire, as far as a router can foresee it, as many into every expert. A router begins as the
least-squares guess of the logarithm of each expert's energy. Then routers and stand-ins learn, with ``chosen`` experts
on, to make KL(dense || split) least.

Deviates
--------
Dynamic-DINO copies its base network's MLP, cuts every copy into pieces, and its router begins by choosing the pieces of
one copy; here the MLP itself is cut and nothing is added. MoEfication cuts networks with ReLU, by their weights or by a
graph of co-activations, and trains its routers alone; here neurons are gated by SiLU, so that none is ever silent, and
are put together by how strongly they fire. Stand-ins are ours.
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from workbench.models import Model
from workbench.models.walk import causal, walk
from workbench.parts import expert_split
from workbench.settings import settings
from workbench.training._forward import residual, some_places
from workbench.training._recipe import Recipe, register
from workbench.training._split_start import split_start


@register
@settings
class ExpertSplit(Recipe):
    """KL divergence from the dense model's distribution to that of its split with some of its experts on.

    Parameters
    ----------
    dense : int
        First layers that stay dense.
    experts : int
        A power of two.
    chosen : int
        Experts that a token runs, in training and in the model that is built.
    shared : int
        Neurons of each MLP that every token runs.
    rank : int
        Neurons of a stand-in for one expert.
    places : int
        Tokens of a batch whose distributions are compared.
    seen : int
        Tokens of training text from which the neurons are dealt.

    Notes
    -----
    ``loss`` is the mean divergence [nats], ``accuracy`` the share of places where both have the same first token.
    """

    steps: Annotated[int, Field(ge=1, description="optimiser steps")] = 300
    batch: Annotated[int, Field(ge=1, description="texts of a step")] = 2
    length: Annotated[int, Field(ge=8, description="tokens of a text")] = 256
    learning_rate: Annotated[float, Field(gt=0, description="peak learning rate")] = 1e-3
    dense: Annotated[int, Field(ge=0, description="first layers that stay dense")] = 1
    experts: Annotated[int, Field(ge=2, le=256, description="experts, a power of two")] = 32
    chosen: Annotated[int, Field(ge=1, le=256, description="experts that a token runs")] = 16
    shared: Annotated[int, Field(ge=1, description="neurons that every token runs")] = 1056
    rank: Annotated[int, Field(ge=1, le=64, description="neurons of a stand-in")] = 1
    places: Annotated[int, Field(ge=1, description="tokens of a batch that are compared")] = 256
    seen: Annotated[int, Field(ge=1, description="tokens from which neurons are dealt")] = 4096

    paper = "Lu et al., Dynamic-DINO, 2025, arXiv 2507.17436; Zhang et al., MoEfication, 2021, arXiv 2110.01786"

    def prepare(self, model: Model, tokens: Tensor) -> dict[str, Any]:
        expert_split.divisible(model, self.dense, self.experts, self.chosen, self.shared, self.rank)
        texts = max(1, min(self.seen, len(tokens)) // self.length)
        starts = torch.arange(texts, device=tokens.device) * (len(tokens) - self.length) // texts
        rows = starts.clamp_min(0)[:, None] + torch.arange(min(self.length, len(tokens)), device=tokens.device)
        return split_start(model, tokens[rows].long(), self.dense, self.experts, self.shared)

    def part(self, model: Model) -> expert_split.ExpertSplit:
        neurons = expert_split.divisible(model, self.dense, self.experts, self.chosen, self.shared, self.rank)
        width, layers = model.anatomy.width, model.layers - self.dense
        sizes = self.dense, layers, width, neurons, self.experts, self.shared, self.rank
        return expert_split.ExpertSplit(*sizes).to(model.device)

    def loss(
        self, model: Model, part: expert_split.ExpertSplit, tokens: Tensor, answer: Tensor
    ) -> tuple[Tensor, dict[str, float]]:
        anatomy = model.anatomy
        text, place = some_places(answer, self.places)
        with torch.no_grad():
            target = anatomy.unembed(residual(anatomy, tokens)[text, place]).float().log_softmax(-1)
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        blocks = expert_split.split_blocks(model, part, self.chosen)
        last = walk(blocks, anatomy.embed(tokens, positions), anatomy.rope(positions), causal)
        found = anatomy.unembed(last[text, place]).float().log_softmax(-1)
        loss = (target.exp() * (target - found)).sum(-1).mean()
        return loss, {"accuracy": float((target.argmax(-1) == found.argmax(-1)).float().mean())}

    @classmethod
    def example(cls) -> ExpertSplit:
        return cls(
            steps=2, batch=2, length=24, learning_rate=0.02, experts=4, chosen=2, shared=20, rank=1, places=8, seen=96
        )
