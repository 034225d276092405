"""The change of weights of :mod:`workbench.parts.exits.sorted`: every so many layers a model of its own.

Paper
-----
Valipour et al., Sorted LLaMA, 2023, arXiv 2309.08968; Valipour et al., SortedNet, 2023, arXiv 2309.00255.

Formula
-------
Loss: the mean over sub-models n of KL(model || n), each through the model's own final norm and unembedding. Every step
trains all depths at full width, and all depths at one narrower width drawn by chance.

Deviates
--------
The papers fine-tune all weights with cross-entropy on instructions; here a change of low rank learns from the untouched
model's distributions, on text that the model itself wrote, as the sub-models are to say what it says. The sub-models'
losses are over some places of a batch drawn by chance, as unembedding costs most of a step. SortedNet nests heads and
channels too; of the width only the neurons of the MLPs are nested.
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from workbench.models import Block, Model
from workbench.parts.exits.sorted import SortedAdapter, depths_of, neurons_of, shapes_of, sorted_model, widths_of
from workbench.parts.neuron_predictor import firing, read_of
from workbench.settings import settings
from workbench.training._accuracy import note_ranks
from workbench.training._forward import residual, some_places, streams
from workbench.training._recipe import Recipe, register

_ORDERED_BY = 4096  # tokens of the training text that neurons are ordered by
_READ = 256


@register
@settings
class SortedExit(Recipe):
    """A change of low rank that makes the first layers models of their own.

    Parameters
    ----------
    rank : int
    every, shallowest : int
        Sub-models have all layers, so many fewer, and so on down to ``shallowest`` at least.
    narrowest : float
        Share of the MLPs' neurons of the narrowest sub-model.
    widths : int
        Of how many different widths sub-models are, the full one among them; 1 trains depth alone.
    places : int
        Tokens of a batch that a step learns from.

    Notes
    -----
    ``accuracy_9`` is the share of places where the sub-model of nine layers has the untouched model's first token;
    ``accuracy`` is that of all layers, and ``accuracy_narrow`` that of all layers at another, held out at the least,
    width.
    """

    steps: Annotated[int, Field(ge=1, description="optimiser steps")] = 300
    batch: Annotated[int, Field(ge=1, description="texts of a step")] = 4
    length: Annotated[int, Field(ge=8, description="tokens of a text")] = 256
    learning_rate: Annotated[float, Field(gt=0, description="peak learning rate")] = 1e-3
    rank: Annotated[int, Field(ge=1, description="rank of the change of every weight")] = 16
    every: Annotated[int, Field(ge=1, description="layers between sub-models")] = 3
    shallowest: Annotated[int, Field(ge=1, description="fewest layers of a sub-model")] = 9
    narrowest: Annotated[float, Field(gt=0, le=1, description="share of the neurons of the narrowest sub-model")] = 0.5
    widths: Annotated[int, Field(ge=1, description="widths of sub-models")] = 3
    places: Annotated[int, Field(ge=1, description="places of a batch that are learned from")] = 64

    paper = "Valipour et al., Sorted LLaMA, 2023, arXiv 2309.08968; SortedNet, 2023, arXiv 2309.00255"

    @torch.no_grad()
    def prepare(self, model: Model, tokens: Tensor) -> dict[str, Any]:
        """Neurons in the order of what they add: the mean of ``|activation|`` times the norm of their column."""
        whole = min(len(tokens), _ORDERED_BY) // _READ * _READ
        texts = tokens[:whole].view(-1, _READ) if whole else tokens[None]
        strength = torch.zeros(model.layers, neurons_of(model), device=model.device)
        for text in texts.long():
            residual(model.anatomy, text[None], choose=lambda block: _Strength(block, strength))
        return {"order": strength.argsort(dim=-1, descending=True, stable=True).int()}

    def part(self, model: Model) -> SortedAdapter:
        depths, widths = depths_of(model.layers, self.every, self.shallowest), widths_of(self.narrowest, self.widths)
        return SortedAdapter(shapes_of(model), self.rank, neurons_of(model), depths, widths).to(model.device)

    def loss(
        self, model: Model, part: SortedAdapter, tokens: Tensor, answer: Tensor
    ) -> tuple[Tensor, dict[str, float]]:
        text, place = some_places(answer, self.places)
        with torch.no_grad():
            target = model.anatomy.unembed(residual(model.anatomy, tokens)[text, place]).float().log_softmax(-1)
        best, depths, widths = target.argmax(-1), part.depths.tolist(), part.widths.tolist()
        if torch.is_grad_enabled():
            # The full width, and one of the others.
            widths = [1.0, *(widths[1 + int(torch.randint(len(widths) - 1, ()))] for _ in widths[1:2])]
        agreed, total = target.new_zeros(len(widths), len(depths)), target.new_zeros(())
        for row, width in enumerate(widths):
            whole = sorted_model(model, part, width=width).anatomy
            read = streams(whole, tokens, text, place)
            for column, depth in enumerate(depths):
                logits = whole.unembed(read[depth]).float().log_softmax(-1)
                total = total + (target.exp() * (target - logits)).sum(-1).mean() / agreed.numel()
                agreed[row, column] = (logits.detach().argmax(-1) == best).float().mean()
        if not torch.is_grad_enabled():
            note_ranks(part, agreed)
        figures = {f"accuracy_{depth}": share for depth, share in zip(depths, agreed[0].tolist())}
        figures |= {"accuracy": float(agreed[0, -1]), "accuracy_narrow": float(agreed[-1, -1])}
        return total, figures

    @classmethod
    def example(cls) -> SortedExit:
        return cls(steps=2, batch=2, length=24, rank=2, every=1, shallowest=1, widths=2)


class _Strength:
    """Asked which neurons run, it answers all, and adds up what every neuron does."""

    def __init__(self, block: Block, strength: Tensor) -> None:
        self._block, self._strength = block, strength

    def neurons(self, x: Tensor) -> None:
        block = self._block
        active = firing(block, read_of(block, x)).mean(0)
        self._strength[block.index] += active * block.down.weight.float().norm(dim=0)
