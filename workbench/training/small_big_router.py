"""The routers of :class:`workbench.techniques.SmallBigRouter`: trained through the frozen model, under a budget.

Paper
-----
Alizadeh et al., Duo-LLM: A Framework for Studying Adaptive Computation in Large Language Models, 2024, arXiv
2410.10846.

Every row draws at each layer one of none, small and big from its router's distribution. The gradient passes through the
drawn one as if it were the distribution (straight through, with Gumbel noise)::

    loss = KL(model || routed model) + penalty (mean chance of big - budget)^2

In use nothing is drawn: the rows whose log-odds of big are above a level take it, the level that a share ``budget`` of
the rows of training text passed.

Deviates
--------
The paper's routers learn the text's own next token, together with a module that they scale; the model is frozen here,
so that its own distribution, which says more for each token, is what they learn. Gumbel noise (Jang et al., 2016, arXiv
1611.01144) stands for the paper's noisy choice.
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from workbench import artifacts
from workbench.models import Block, Model
from workbench.parts.neuron_predictor import dense_neurons, read_of
from workbench.parts.small_big import BIG, NONE, SMALL, SMALL_MLPS, Routers, SmallMlp, small_mlps
from workbench.parts.small_big.routers import choose, margin
from workbench.settings import settings
from workbench.training._forward import residual, some_places
from workbench.training._recipe import Recipe, register

_RATE = 0.1


@register
@settings
class SmallBigRouter(Recipe):
    """Divergence of the routed model from the whole one, at a budget of big MLPs.

    Parameters
    ----------
    steps, batch, length : int
    learning_rate : float
    small : str
        The small MLPs: ``bundled``, ``untrained`` or the path of a ``.safetensors`` file.
    budget : float
        Share of tokens and layers that may take the big MLP.
    penalty : float
        Nats for the square of what the share is off.
    places : int
        Tokens of a batch whose next-token distributions are compared.
    spread : float
        Standard deviation of the rows' log-odds to begin with.

    Notes
    -----
    Figures: ``divergence`` [nats], ``agreement``, the share of places with the whole model's first token, and ``big``
    and ``none``, shares of rows and layers that took these. In training modules are drawn, held out the router decides.
    """

    steps: Annotated[int, Field(ge=1, description="optimiser steps")] = 300
    batch: Annotated[int, Field(ge=1, description="texts of a step")] = 2
    length: Annotated[int, Field(ge=8, description="tokens of a text")] = 256
    learning_rate: Annotated[float, Field(gt=0, description="peak learning rate")] = 3e-2
    small: Annotated[str, Field(min_length=1, description="small MLPs: bundled, untrained, or a file")] = "bundled"
    budget: Annotated[float, Field(ge=0, le=1, description="share that may take the big MLP")] = 0.7
    penalty: Annotated[float, Field(ge=0, description="nats for the squared excess")] = 50.0
    places: Annotated[int, Field(ge=1, description="tokens whose distributions are compared")] = 192
    spread: Annotated[float, Field(ge=0, description="spread of log-odds to begin with")] = 0.0

    paper = "Alizadeh et al., Duo-LLM, 2024, arXiv 2410.10846"

    def prepare(self, model: Model, tokens: Tensor) -> dict[str, Any]:
        if self.small == "untrained":
            return {}
        return {SMALL_MLPS: artifacts.load(SMALL_MLPS, model, self.small)[1]["sha256"]}

    def part(self, model: Model) -> Routers:
        return Routers(model.anatomy.width, dense_neurons(model), self.spread).to(model.device)

    def loss(self, model: Model, part: Routers, tokens: Tensor, answer: Tensor) -> tuple[Tensor, dict[str, float]]:
        anatomy, small = model.anatomy, small_mlps(model, self.small)
        text, place = some_places(answer, self.places)
        # What stands behind a text's last answer token may be what it was filled up with.
        real = (answer.flip(1).cumsum(1).flip(1) > 0).flatten()
        with torch.no_grad():
            target = anatomy.unembed(residual(anatomy, tokens)[text, place]).float().log_softmax(-1)
        met: list[tuple[Tensor, Tensor, Tensor]] = []

        def route(block: Block) -> _Drawn:
            return _Drawn(block, part, small[block.index], real, met)

        last = residual(anatomy, tokens, choose=route)[text, place]
        said = anatomy.unembed(last).float().log_softmax(-1)
        divergence = (target.exp() * (target - said)).sum(-1).mean()
        chance, taken, margins = (torch.stack(each) for each in zip(*met))
        if part.training:
            with torch.no_grad():
                part.level.lerp_(margins.flatten().quantile(1 - self.budget)[None], _RATE)
        off = chance.mean() - self.budget
        figures = {
            "divergence": float(divergence.detach()),
            "agreement": float((said.detach().argmax(-1) == target.argmax(-1)).float().mean()),
            "big": float((taken == BIG).float().mean()),
            "none": float((taken == NONE).float().mean()),
        }
        return divergence + self.penalty * off.square(), figures

    @classmethod
    def example(cls) -> SmallBigRouter:
        return cls(steps=2, batch=2, length=24, small="untrained", places=16, spread=0.5)


class _Drawn:
    """Gives every row of a block's MLP what was drawn for it, in training, or what its router decides."""

    def __init__(
        self, block: Block, part: Routers, small: SmallMlp, real: Tensor, met: list[tuple[Tensor, Tensor, Tensor]]
    ) -> None:
        self._block, self._part, self._small, self._real, self._met = block, part, small, real, met

    def stand_in(self, x: Tensor) -> tuple[Tensor, Tensor]:
        block, normed = self._block, read_of(self._block, x)
        odds = self._part(block.index, normed.float()).float()
        chances = odds.softmax(-1)
        if self._part.training:
            weight = F.gumbel_softmax(odds, hard=True)
            kinds = weight.argmax(-1)
            big = chances[self._real, BIG].mean()
        else:
            kinds = choose(odds - F.pad(self._part.level, (2, 0)), 0.5)
            weight = F.one_hot(kinds, 3)
            big = (kinds[self._real] == BIG).float().mean()
        self._met.append((big, kinds[self._real], margin(odds.detach()[self._real])))
        weight = weight.to(x.dtype)
        added = weight[:, BIG, None] * block.mlp_sublayer(x[None])[0]
        return kinds.new_empty(0), added + weight[:, SMALL, None] * self._small(block, normed).to(x.dtype)
