"""Let a token have as many experts as its router needs to be sure: few where one stands out, many where none does.

Paper
-----
Huang et al., Harder Tasks Need More Experts: Dynamic Routing in MoE Models, 2024, arXiv 2403.07652. The threshold: Lu
et al., Not All Experts are Equal: Efficient Expert Pruning and Skipping for Mixture-of-Experts Large Language Models,
2024, arXiv 2402.14800.

Formula
-------
With a token's router probabilities p sorted, p1 >= p2 >= ..., expert i runs if the ones before it do not hold the mass
yet, and if it is not far below the first::

    p1 + ... + p(i-1) < mass   and   p(i) >= threshold * p1   and   i <= most

It counts as much as it would in the model's own choice: p(i), divided by the sum over those that run where the model
makes its weights sum to one.

Deviates
--------
The paper trains its model with this routing, with a loss that keeps the probabilities from going flat; here models are
taken as they are, trained to run a fixed number, so that by default no token has more than that number. The paper's
text adds experts until the sum exceeds the mass; here, until it reaches it. The second paper skips only the second of
two experts, with a threshold for each layer; here there is one for all. ``sharpness`` is ours: a router whose logits
were kept small, such as those of ``smollm2-moe``, says who comes first but no mass; what its configuration names
``router_scale`` is undone before the mass is measured.
"""

from __future__ import annotations

from typing import Annotated, Self

import torch
from pydantic import Field
from torch import Tensor

from workbench.engine import Run
from workbench.engine.slots import ExpertsPolicy
from workbench.errors import SettingError
from workbench.models import FAMILIES, Block
from workbench.settings import settings
from workbench.techniques._technique import Technique, register


@register
@settings
class DynamicExperts(Technique):
    """Each row of a pass has its own experts, by itself alone: verified tokens are computed as decoded ones.

    Parameters
    ----------
    mass : float
        Share of the router's probability at which a token has experts enough; 1 is never reached.
    threshold : float
        Probability below which an expert is skipped, as a share of the first one's; 0 skips none.
    most : int
        Most experts of a token; 0 means as many as the model itself takes.
    sharpness : float
        What the router's logits are multiplied with before probabilities are measured, beside what undoes the scale
        that the model's configuration names. Their order stays, and the weights that experts count with.

    Notes
    -----
    A pass of one token runs and reads its own experts alone; one of many reads those that any of its rows has.
    """

    mass: Annotated[float, Field(gt=0, le=1, description="router mass at which there are experts enough")] = 0.8
    threshold: Annotated[float, Field(ge=0, le=1, description="least share of the first expert's probability")] = 0.0
    most: Annotated[int, Field(ge=0, le=1024, description="most experts of a token; 0: the model's own number")] = 0
    sharpness: Annotated[float, Field(gt=0, le=1e6, description="sharpens probabilities before measuring")] = 1.0

    slots = ("experts",)
    exact = False
    paper = "Huang et al., Harder Tasks Need More Experts, 2024, arXiv 2403.07652"

    def start(self, run: Run) -> ExpertsPolicy:
        model = run.model
        counts = [len(block.router.experts) for block in model.anatomy.blocks if block.router is not None]
        if not counts:
            known = ", ".join(family.title for family in FAMILIES.values() if family.experts is not None)
            raise SettingError(
                f"{self.name} needs a mixture-of-experts model (smollm2-moe, or one of {known}); {model.name} is a "
                f"dense {model.anatomy.family.title} without experts"
            )
        if self.most > min(counts):
            raise SettingError(f"{model.name} has {min(counts)} experts, so most is 0 … {min(counts)}, not {self.most}")
        if (self.mass, self.threshold, self.most) == (1, 0, 0):
            return _Own()
        scale = float(getattr(model.anatomy.config, "router_scale", 1.0))
        return _Dynamic(self.mass, self.threshold, self.most, self.sharpness / scale)

    @classmethod
    def neutral(cls) -> Self:
        return cls(mass=1)

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return cls(mass=0.6), cls(mass=0.8, most=4), cls(mass=1, threshold=0.7)


class _Own(ExpertsPolicy):
    def choose_experts(self, block: Block, x: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        return block.route(logits)


class _Dynamic(ExpertsPolicy):
    def __init__(self, mass: float, threshold: float, most: int, sharpness: float) -> None:
        self._mass, self._threshold, self._most, self._sharpness = mass, threshold, most, sharpness

    def choose_experts(self, block: Block, x: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        router, logits = block.router, logits.float()
        # Of the logits, as probabilities that are nearly alike may be equal in float32 before their order is.
        indices = logits.topk(self._most or router.chosen, -1).indices
        probability = (logits * self._sharpness).softmax(-1).gather(-1, indices)
        runs = probability >= self._threshold * probability[:, :1]
        if self._mass < 1:
            runs &= probability.cumsum(-1) - probability < self._mass
        runs[:, 0] = True
        weights = logits.softmax(-1).gather(-1, indices) * runs
        if router.normalised:
            weights = weights / weights.sum(-1, keepdim=True)
        widest = int(runs.sum(-1).max())
        # What comes after the last one that runs does not run either, as probabilities fall.
        return weights[:, :widest], torch.where(runs, indices, len(router.experts))[:, :widest]
