"""The small MLPs of :class:`workbench.techniques.SmallBigRouter`: distilled from the big ones, layer by layer.

Paper
-----
Alizadeh et al., Duo-LLM: A Framework for Studying Adaptive Computation in Large Language Models, 2024, arXiv
2410.10846.

Every row of the training text takes, at each layer, the big MLP, the small one or none, by chance, as in the paper's
first stage; the small one learns what the big one adds at the stream that comes of that::

    loss = mean over layers and rows of |small(x) - big(x)|^2 / |big(x)|^2

A small MLP begins as those neurons of the big one that add most to the stream.

Deviates
--------
The paper trains big and small modules together, from nothing, on the model's own loss. Here the model is frozen and the
small MLPs are distilled, each by itself. The share of rows that take the big MLP is drawn anew for each text, so that
the small ones meet streams of every budget.
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from workbench.models import Block, Model
from workbench.parts.neuron_predictor import dense_neurons, firing, read_of
from workbench.parts.small_big import BIG, NONE, SMALL
from workbench.parts.small_big import SmallMlps as Part
from workbench.parts.small_big.small import gates_of
from workbench.settings import settings
from workbench.training._forward import residual
from workbench.training._recipe import Recipe, register


@register
@settings
class SmallMlps(Recipe):
    """Relative squared error of what small MLPs add, on streams that were routed by chance.

    Parameters
    ----------
    steps, batch, length : int
    learning_rate : float
    neurons : int
        Of each small MLP.
    skipped : float
        Of the rows that do not take the big MLP the share that take none.
    looked : int
        Tokens over which it is measured which neurons add most.

    Notes
    -----
    Figures: ``worst``, the loss of the layer where it is most; ``cosine``, of what small and big add, as a mean over
    layers.
    """

    steps: Annotated[int, Field(ge=1, description="optimiser steps")] = 900
    batch: Annotated[int, Field(ge=1, description="texts of a step")] = 2
    length: Annotated[int, Field(ge=8, description="tokens of a text")] = 256
    learning_rate: Annotated[float, Field(gt=0, description="peak learning rate")] = 2e-3
    neurons: Annotated[int, Field(ge=1, le=65536, description="neurons of each small MLP")] = 64
    skipped: Annotated[float, Field(ge=0, le=1, description="share of the rest that take none")] = 0.05
    looked: Annotated[int, Field(ge=1, description="tokens that choose the neurons to begin with")] = 2048

    paper = "Alizadeh et al., Duo-LLM, 2024, arXiv 2410.10846"

    def prepare(self, model: Model, tokens: Tensor) -> dict[str, Any]:
        length = min(self.length, len(tokens))
        rows = tokens[: max(1, self.looked // length) * length]
        strength: dict[int, Tensor] = {}
        with torch.no_grad():
            texts = rows[: len(rows) // length * length].view(-1, length).long()
            residual(model.anatomy, texts, choose=lambda block: _Strength(block, strength))
        found: dict[str, Any] = {}
        for layer, mean in strength.items():
            found |= self._best(model.anatomy.blocks[layer], mean, self._size(model))
        return found

    def part(self, model: Model) -> Part:
        return Part(model.anatomy.width, gates_of(model), self._size(model)).to(model.device)

    def loss(self, model: Model, part: Part, tokens: Tensor, answer: Tensor) -> tuple[Tensor, dict[str, float]]:
        # What stands behind a text's last answer token may be what it was filled up with.
        real = (answer.flip(1).cumsum(1).flip(1) > 0).flatten()
        share = torch.rand(len(tokens), 1, device=tokens.device).expand(tokens.shape).flatten()
        found: list[tuple[Block, Tensor, Tensor]] = []
        with torch.no_grad():
            residual(model.anatomy, tokens, choose=lambda block: _ByChance(self, block, part, share, real, found))
        losses, cosine = [], 0.0
        for block, normed, target in found:
            given = part(block, normed).float()
            size = target.square().sum(-1)
            # A row to which the big one adds next to nothing counts as little as one of average size would.
            losses.append(((given - target).square().sum(-1) / (size + 0.01 * size.mean()).clamp_min(1e-30)).mean())
            cosine += float(F.cosine_similarity(given.detach(), target, -1).mean()) / len(found)
        each = torch.stack(losses)
        return each.mean(), {"worst": float(each.detach().max()), "cosine": cosine}

    def _size(self, model: Model) -> int:
        return min(self.neurons, *dense_neurons(model).values())

    def _best(self, block: Block, strength: Tensor, size: int) -> dict[str, Tensor]:
        """Weights of the small MLP of a block that has those of its neurons which add most."""
        up, down, total = block.up, block.down, len(strength)
        kept = (strength * down.weight.float().norm(dim=0)).topk(size).indices
        rows = torch.cat((kept, kept + total)) if block.gated else kept
        found = {"up": (up.weight[rows], up.bias if up.bias is None else up.bias[rows])}
        found["down"] = down.weight[:, kept], down.bias
        made = {}
        for kind, (weight, bias) in found.items():
            made[f"{kind}.{block.index}.weight"] = weight.float()
            made[f"{kind}.{block.index}.bias"] = weight.new_zeros(len(weight)) if bias is None else bias.float()
        return made

    @classmethod
    def example(cls) -> SmallMlps:
        return cls(steps=2, batch=2, length=24, neurons=4, looked=48)


class _Strength:
    """Takes down how strongly the neurons of a block fire on average."""

    def __init__(self, block: Block, strength: dict[int, Tensor]) -> None:
        self._block, self._strength = block, strength

    def neurons(self, x: Tensor) -> None:
        self._strength[self._block.index] = firing(self._block, read_of(self._block, x)).mean(0)


class _ByChance:
    """Gives every row of a block's MLP big, small or none by chance, and keeps what the small one learns from."""

    def __init__(
        self,
        recipe: SmallMlps,
        block: Block,
        part: Part,
        share: Tensor,
        real: Tensor,
        found: list[tuple[Block, Tensor, Tensor]],
    ) -> None:
        self._recipe, self._block, self._part = recipe, block, part
        self._share, self._real, self._found = share, real, found

    def stand_in(self, x: Tensor) -> tuple[Tensor, Tensor]:
        block, normed = self._block, read_of(self._block, x)
        big, small = block.mlp_sublayer(x[None])[0], self._part(block, normed.float()).to(x.dtype)
        self._found.append((block, normed[self._real].float(), big[self._real].float()))
        drawn, none = torch.rand(2, len(x), device=x.device)
        kind = torch.where(drawn < self._share, BIG, torch.where(none < self._recipe.skipped, NONE, SMALL))
        added = torch.where((kind == BIG)[:, None], big, torch.where((kind == SMALL)[:, None], small, 0))
        return kind.new_empty(0), added
