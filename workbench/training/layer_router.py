"""The routers of :class:`workbench.techniques.LayerRouter`: which layers a prompt's answer can do without.

Paper
-----
Heakl, Gubri, Khan, Yun, Oh, Dr.LLM: Dynamic Layer Routing in LLMs, 2025, arXiv 2510.12773. Weights of classes: Cui et
al., Class-Balanced Loss Based on Effective Number of Samples, 2019, arXiv 1901.05555. Focal loss: Lin et al., 2017,
arXiv 1708.02002.

Source
------
github.com/parameterlab/dr-llm

A tree search (:mod:`workbench.training.layer_search`) finds for every text the fewest passes through layers that keep
its answer. Each layer's choice in them is its router's label; the routers read the frozen model's streams on that very
way (teacher forcing), of the prompt alone. Of n_c labels of a class, with p the chance given to the right one::

    loss = mean over texts and layers of  -w_c (1 - p)^gamma log p,    w_c ~ (1 - beta) / (1 - beta^n_c),  sum w_c = 3

Deviates
--------
The paper searches on questions with known answers and keeps what answers them right, also where full depth does not;
here the answer is the model's own at full depth, and it is kept where its tokens lose no more than ``tolerance`` nats
of log-likelihood on average. So nothing can be more right than full depth: a layer is repeated only where that helps to
skip others, which is nearly never. A class without a label weighs nothing. The paper trains on 4,000 paths with batches
of 16 for 15 to 25 epochs. What a route loses is the mean over an answer's first tokens, not over all of it.
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from workbench.models import Model
from workbench.parts.layer_router import SKIP, LayerRouters
from workbench.settings import settings
from workbench.training._recipe import Progress, Recipe, register
from workbench.training._routes import Route, Searching, texts_of
from workbench.training.batches import Batches
from workbench.training.data import DataSettings, TrainingData


@register
@settings
class LayerRouter(Recipe):
    """Focal loss, balanced over classes, on choices of layers that a tree search found.

    Parameters
    ----------
    steps, batch, length : int
    learning_rate : float
    bottleneck : int
        Numbers between a router's two linear maps.
    windows : int
        That a prompt is read as.
    prompt_tokens, answer_tokens : int
        Of a text the last ones of its prompt and the first ones of its answer that are searched on.
    simulations : int
        Configurations that the search looks at for each text; most of the training's time.
    exploration, penalty : float
        Of the search: how much what is little visited counts, and what running all layers costs.
    budget : float
        Most passes through layers, over their number.
    tolerance : float
        Log-likelihood that a token of the answer may lose on average [nats].
    gamma, beta : float
        Of the focal loss, and of the effective number of labels.
    keep : bool
        Keep what the search finds in the user's cache folder, so that a training that was stopped goes on with it.

    Notes
    -----
    ``accuracy`` is the share of choices that are the search's; ``skips_found`` the share of the search's skips that the
    routers skip, ``skips_right`` the share of the routers' skips that are the search's; ``passes`` and ``passes_due``
    the passes through layers that routers and search choose, over the number of layers; ``lost`` is what the search's
    choices cost an answer's token [nats].
    """

    steps: Annotated[int, Field(ge=1, description="optimiser steps")] = 400
    batch: Annotated[int, Field(ge=1, description="texts of a step")] = 16
    length: Annotated[int, Field(ge=8, description="tokens of a text, of which a part is read")] = 512
    learning_rate: Annotated[float, Field(gt=0, description="peak learning rate")] = 1e-3
    bottleneck: Annotated[int, Field(ge=1, le=4096, description="numbers between a router's two maps")] = 128
    windows: Annotated[int, Field(ge=1, le=256, description="windows that a prompt is read as")] = 8
    prompt_tokens: Annotated[int, Field(ge=1, description="tokens of a prompt that are read")] = 64
    answer_tokens: Annotated[int, Field(ge=1, description="tokens of an answer that are to be kept")] = 24
    simulations: Annotated[int, Field(ge=1, description="configurations looked at for a text")] = 100
    exploration: Annotated[float, Field(ge=0, description="weight of what is little visited")] = 0.3
    penalty: Annotated[float, Field(ge=0, description="cost of running all layers")] = 1.0
    budget: Annotated[float, Field(ge=1, le=2, description="most passes over the number of layers")] = 1.0
    tolerance: Annotated[float, Field(ge=0, description="log-likelihood that may be lost [nats]")] = 0.25
    gamma: Annotated[float, Field(ge=0, description="of the focal loss")] = 2.0
    beta: Annotated[float, Field(ge=0, lt=1, description="of the effective number of labels")] = 0.999
    keep: Annotated[bool, Field(description="keep what the search finds")] = True

    paper = "Heakl et al., Dr.LLM, 2025, arXiv 2510.12773"
    data = DataSettings(prompts=0, asked=300, sampled=0, continued=0, new_tokens=32, length=96)

    def prepare_texts(self, model: Model, texts: TrainingData, progress: Progress | None = None) -> dict[str, Any]:
        """Search for the routes of all texts that are trained on, and count their choices."""
        counts = torch.zeros(3, dtype=torch.int32)
        each = Batches(texts, 1, self.length, 0, model.device).in_order()
        for done, (tokens, answer) in enumerate(each, 1):
            for route in self._routes(model, tokens, answer):
                counts += route.choices.bincount(minlength=3).int()
            if progress is not None:
                progress(done, len(texts.tokens), f"layer_router: searching, {int(counts[SKIP])} layers to skip so far")
        return {"counts": counts}

    def part(self, model: Model) -> LayerRouters:
        return LayerRouters(model.layers, model.anatomy.width, self.bottleneck, self.windows).to(model.device)

    def loss(self, model: Model, part: LayerRouters, tokens: Tensor, answer: Tensor) -> tuple[Tensor, dict[str, float]]:
        routes = self._routes(model, tokens, answer)
        odds = torch.stack([part(route.pooled.float()) for route in routes]).float()
        due = torch.stack([route.choices for route in routes]).to(odds.device)
        loss = focal(odds, due, balance(part.counts, self.beta), self.gamma)
        said = odds.detach().argmax(-1)
        right, skipped, skips = said == due, said == SKIP, due == SKIP
        figures = {
            "accuracy": right.float().mean(),
            "skips_found": (skipped & skips).sum() / skips.sum().clamp(min=1),
            "skips_right": (skipped & skips).sum() / skipped.sum().clamp(min=1),
            "passes": said.float().mean(),
            "passes_due": due.float().mean(),
        }
        lost = sum(route.lost for route in routes) / len(routes)
        return loss, {**{key: float(value) for key, value in figures.items()}, "lost": lost}

    def _routes(self, model: Model, tokens: Tensor, answer: Tensor) -> list[Route]:
        how = Searching(self.windows, self.simulations, self.exploration, self.penalty, self.budget, self.tolerance,
                        self.keep)  # fmt: skip
        texts = texts_of(tokens, answer, self.prompt_tokens, self.answer_tokens)
        return [how.route(model, text) for text in texts]

    @classmethod
    def example(cls) -> LayerRouter:
        return cls(steps=2, batch=2, length=40, bottleneck=4, windows=2, answer_tokens=4, simulations=6, keep=False)


def balance(counts: Tensor, beta: float) -> Tensor:
    """Weights [classes] of labels that came ``counts`` [classes] times: in proportion to one over the effective number
    ``(1 - beta^n) / (1 - beta)``, with the number of classes as their sum; 0 of a class that never came."""
    number = (1 - beta ** counts.double()) / (1 - beta)
    weights = torch.where(counts > 0, 1 / number.clamp(min=1e-9), 0)
    return (weights * len(counts) / weights.sum().clamp(min=1e-9)).float()


def focal(odds: Tensor, due: Tensor, weights: Tensor, gamma: float) -> Tensor:
    """Mean of ``-w (1 - p)^gamma log p`` over labels ``due`` [...], of log-odds [..., classes]."""
    chance = odds.log_softmax(-1).gather(-1, due[..., None])[..., 0]
    return -(weights[due] * (1 - chance.exp()) ** gamma * chance).mean()
