"""The predictor of :class:`workbench.techniques.NeuronGate`: which neurons of an MLP hold its mass, from what it reads.

Paper
-----
Elkerdawy, Elhoushi, Zhang, Ray, Fire Together Wire Together: A Dynamic Pruning Approach with Self-Supervised Mask
Prediction, 2022, arXiv 2110.08232.

Source
------
github.com/selkerdawy/FTWT

Of a row of text, the frozen model's own activations are the label: the neurons with the largest, as few as hold a share
``mass`` of their sum, so that k follows from each row. The loss is the binary cross-entropy of the predictor's log-odds
with that mask, over all neurons of all layers: nothing of the model's own loss is in it (decoupled, as in the paper).

Deviates
--------
The paper prunes filters of convolutions and fine-tunes the network with the predicted masks; here neurons of the MLP of
a language model are chosen, and its weights stay as they are. The neuron that completes the mass is kept too, so that
no row has none. The paper's predictor is one linear layer, which would cost a third of the MLP here; this one is of
low rank, with a SiLU in the middle, as the size of an activation is the same for inputs of opposite signs.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from workbench.models import Block, Model
from workbench.parts.neuron_predictor import NeuronPredictor, dense_neurons, firing, read_of, top_of_mass
from workbench.settings import settings
from workbench.training._forward import residual
from workbench.training._recipe import Recipe, register


@register
@settings
class NeuronGate(Recipe):
    """Binary cross-entropy between the predicted neurons and those that hold the mass of the model's activations.

    Parameters
    ----------
    steps, batch, length : int
    learning_rate : float
    rank : int
        Numbers between the predictor's two linear maps.
    mass : float
        Share of a row's activations that the neurons to be predicted hold.
    rows : int
        Rows of a batch that are learned from, drawn by chance among all of its texts.

    Notes
    -----
    Figures, as means over layers: ``accuracy``, the share of neurons that are rightly said to run or not; ``due`` and
    ``kept``, the shares of neurons in the mask and in the prediction at even odds; ``mass_kept``, the share of the
    activations that the predicted neurons hold.
    """

    steps: Annotated[int, Field(ge=1, description="optimiser steps")] = 400
    batch: Annotated[int, Field(ge=1, description="sequences of a step")] = 4
    length: Annotated[int, Field(ge=8, description="tokens of a sequence")] = 256
    learning_rate: Annotated[float, Field(gt=0, description="peak learning rate")] = 3e-3
    rank: Annotated[int, Field(ge=1, le=1024, description="numbers between the predictor's two maps")] = 64
    mass: Annotated[float, Field(gt=0, lt=1, description="share of the activations that is to be held")] = 0.9
    rows: Annotated[int, Field(ge=1, description="rows of a batch that are learned from")] = 1024

    paper = "Elkerdawy et al., Fire Together Wire Together, 2022, arXiv 2110.08232"

    def part(self, model: Model) -> NeuronPredictor:
        return NeuronPredictor(model.anatomy.width, dense_neurons(model), self.rank).to(model.device)

    def loss(
        self, model: Model, part: NeuronPredictor, tokens: Tensor, answer: Tensor
    ) -> tuple[Tensor, dict[str, float]]:
        # What stands behind a text's last answer token may be what it was filled up with.
        real = (answer.flip(1).cumsum(1).flip(1) > 0).flatten().nonzero()[:, 0]
        drawn = real[torch.randperm(len(real), device=real.device)[: self.rows]]
        read: dict[int, Tensor] = {}
        with torch.no_grad():
            residual(model.anatomy, tokens, choose=lambda block: _Reading(block, drawn, read))
        total, sums = torch.zeros((), device=tokens.device), torch.zeros(4, device=tokens.device)
        for layer, normed in read.items():
            with torch.no_grad():
                strength = firing(model.anatomy.blocks[layer], normed)
                label = top_of_mass(strength, self.mass)
            odds = part(layer, normed.float()).float()
            total = total + F.binary_cross_entropy_with_logits(odds, label.float()) / len(read)
            with torch.no_grad():
                said = odds > 0
                held = ((strength * said).sum(-1) / strength.sum(-1).clamp_min(1e-30)).mean()
                found = ((said == label).float().mean(), label.float().mean(), said.float().mean(), held)
                sums += torch.stack(found) / len(read)
        return total, dict(zip(("accuracy", "due", "kept", "mass_kept"), sums.tolist()))

    @classmethod
    def example(cls) -> NeuronGate:
        return cls(steps=2, batch=2, length=24, rank=4, rows=16)


class _Reading:
    """Asked which neurons run, it answers all, and keeps what some rows of the MLP read."""

    def __init__(self, block: Block, rows: Tensor, read: dict[int, Tensor]) -> None:
        self._block, self._rows, self._read = block, rows, read

    def neurons(self, x: Tensor) -> None:
        self._read[self._block.index] = read_of(self._block, x[self._rows])
