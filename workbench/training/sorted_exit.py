"""The change of weights of :mod:`workbench.parts.exits.sorted`: every so many layers a model of its own.

Paper
-----
Valipour et al., Sorted LLaMA, 2023, arXiv 2309.08968; Valipour et al., SortedNet, 2023, arXiv 2309.00255.

Formula
-------
Loss: the weighted mean over sub-models n of KL(model || n), each through the model's own final norm and unembedding;
the k-th deepest of K weighs ``K + 1 - k``. All depths are trained in every step, at one width: the full one in
three steps of four, else one of the others, drawn by chance.

Deviates
--------
The papers fine-tune all weights with cross-entropy on instructions; here a change of low rank of the upper blocks alone
learns from the untouched model's distributions, on text that the model itself wrote, as the sub-models are to say what
it says. What lies below the first changed block then needs no derivative and is shared with the untouched model. The
papers weigh all losses alike and change all blocks; but of the bundled model nine to twenty-one layers alone are 10 to
16 nats from the whole, and near the untouched weights their gradient on the lower blocks is 140 times that of the full
depth and at a right angle to it, so that full depth pays for them (it fell to 64 % of the model's own tokens). The
losses are over some places of a batch drawn by chance and the frequent tokens alone, as unembedding costs most of a
step; held-out figures are over all tokens. SortedNet nests heads and channels too; of the width only the neurons of the
MLPs that change are nested.
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from workbench.errors import SettingError
from workbench.models import Anatomy, Block, Model
from workbench.models.projection import some_outputs
from workbench.models.walk import causal, walk
from workbench.parts.exits.sorted import SortedAdapter, depths_of, neurons_of, shapes_of, widths_of
from workbench.parts.exits.submodels import sorted_blocks
from workbench.parts.neuron_predictor import firing, read_of
from workbench.settings import settings
from workbench.training._accuracy import note_ranks
from workbench.training._forward import residual, some_places
from workbench.training._recipe import Recipe, register
from workbench.training._vocabulary import most_frequent

_ORDERED_BY = 4096  # tokens of the training text that neurons are ordered by
_READ = 256
_WATCHED = 64  # places of a held-out batch, where logits are of all tokens
_NARROW = 0.25  # share of the steps at another than the full width


@register
@settings
class SortedExit(Recipe):
    """A change of low rank that makes the first layers models of their own.

    Parameters
    ----------
    rank : int
    every : int
        Sub-models have all layers, so many fewer, and so on.
    shallowest, first : float
        Share of the layers that the shallowest sub-model has at least, and of those below the first that changes.
    narrowest : float
        Share of the MLPs' neurons of the narrowest sub-model.
    widths : int
        Of how many different widths sub-models are, the full one among them; 1 trains depth alone.
    places : int
        Tokens of a batch that a step learns from.
    vocabulary : int
        Most frequent tokens of the training text that a step's losses are over.

    Notes
    -----
    ``accuracy_24`` is the share of places where the sub-model of 24 layers has the untouched model's first token;
    ``accuracy`` is that of all layers, and ``accuracy_narrow`` that of all layers at another, held out at the least,
    width.
    """

    steps: Annotated[int, Field(ge=1, description="optimiser steps")] = 480
    batch: Annotated[int, Field(ge=1, description="texts of a step")] = 4
    length: Annotated[int, Field(ge=8, description="tokens of a text")] = 256
    learning_rate: Annotated[float, Field(gt=0, description="peak learning rate")] = 1e-3
    rank: Annotated[int, Field(ge=1, description="rank of the change of every weight")] = 16
    every: Annotated[int, Field(ge=1, description="layers between sub-models")] = 3
    shallowest: Annotated[float, Field(gt=0, le=1, description="least share of the layers of a sub-model")] = 0.7
    first: Annotated[float, Field(ge=0, lt=1, description="share of the layers below the first that changes")] = 0.5
    narrowest: Annotated[float, Field(gt=0, le=1, description="share of the neurons of the narrowest sub-model")] = 0.75
    widths: Annotated[int, Field(ge=1, description="widths of sub-models")] = 2
    places: Annotated[int, Field(ge=1, description="places of a batch that are learned from")] = 512
    vocabulary: Annotated[int, Field(ge=1, description="frequent tokens that losses are over")] = 8192

    paper = "Valipour et al., Sorted LLaMA, 2023, arXiv 2309.08968; SortedNet, 2023, arXiv 2309.00255"

    @torch.no_grad()
    def prepare(self, model: Model, tokens: Tensor) -> dict[str, Any]:
        """Neurons in the order of what they add: the mean of ``|activation|`` times the norm of their column."""
        whole = min(len(tokens), _ORDERED_BY) // _READ * _READ
        texts = tokens[:whole].view(-1, _READ) if whole else tokens[None]
        strength = torch.zeros(model.layers, neurons_of(model), device=model.device)
        for text in texts.long():
            residual(model.anatomy, text[None], choose=lambda block: _Strength(block, strength))
        order = strength.argsort(dim=-1, descending=True, stable=True).int()
        kept, covered = most_frequent(model, tokens, self._size(model))
        return {"order": order[self._first(model) :], "vocabulary": kept.int(), "covered": covered}

    def part(self, model: Model) -> SortedAdapter:
        depths = depths_of(model.layers, self.every, max(1, round(self.shallowest * model.layers)))
        if depths[0] < self._first(model):
            raise SettingError(
                f"a sub-model of {depths[0]} layers has none that change, as {self._first(model)} lie below them: set "
                "first= lower, or shallowest= higher"
            )
        shapes, widths = shapes_of(model, self._first(model)), widths_of(self.narrowest, self.widths)
        part = SortedAdapter(shapes, self.rank, neurons_of(model), depths, widths, self._size(model))
        return part.to(model.device)

    def loss(
        self, model: Model, part: SortedAdapter, tokens: Tensor, answer: Tensor
    ) -> tuple[Tensor, dict[str, float]]:
        learns, anatomy = torch.is_grad_enabled(), model.anatomy
        text, place = some_places(answer, self.places if learns else min(self.places, _WATCHED))
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        ropes, plain = anatomy.rope(positions), anatomy.blocks
        chosen = part.vocabulary.long() if learns and len(part.vocabulary) < anatomy.vocabulary else None
        with torch.no_grad():
            entering = walk(plain[: part.first], anatomy.embed(tokens, positions), ropes, causal)
            last = walk(plain[part.first :], entering, ropes, causal)[text, place]
            target = _logits(anatomy, last, chosen).log_softmax(-1)
        best, depths, widths = target.argmax(-1), part.depths.tolist(), part.widths.tolist()
        if learns:
            narrow = len(widths) > 1 and float(torch.rand(())) < _NARROW
            widths = [widths[1 + int(torch.randint(len(widths) - 1, ()))] if narrow else 1.0]
        weights = torch.arange(1.0, len(depths) + 1, device=target.device)
        agreed, total = target.new_zeros(len(widths), len(depths)), target.new_zeros(())
        for row, width in enumerate(widths):
            blocks = [*sorted_blocks(anatomy, part, width).values()]
            streams = _after(blocks, entering, ropes, {depth - 1 for depth in depths}, text, place)
            for column, depth in enumerate(depths):
                said = _logits(anatomy, streams[depth - 1], chosen).log_softmax(-1)
                lost = (target.exp() * (target - said)).sum(-1).mean()
                total = total + lost * weights[column] / weights.sum() / len(widths)
                agreed[row, column] = (said.detach().argmax(-1) == best).float().mean()
        if not learns:
            note_ranks(part, agreed)
        figures = {f"accuracy_{depth}": share for depth, share in zip(depths, agreed[0].tolist())}
        return total, figures | {"accuracy": float(agreed[0, -1]), "accuracy_narrow": float(agreed[-1, -1])}

    @classmethod
    def example(cls) -> SortedExit:
        return cls(steps=2, batch=2, length=24, rank=2, every=1, shallowest=0.25, first=0.25, vocabulary=64)

    def _first(self, model: Model) -> int:
        return min(model.layers - 1, round(self.first * model.layers))

    def _size(self, model: Model) -> int:
        return min(self.vocabulary, model.anatomy.vocabulary)


def _logits(anatomy: Anatomy, stream: Tensor, chosen: Tensor | None) -> Tensor:
    """Logits [rows, tokens], float32, of all tokens or of the chosen ones."""
    head = anatomy.head if chosen is None else some_outputs(anatomy.head, chosen)
    return anatomy.finish(head(anatomy.final_norm(stream))).float()


def _after(
    blocks: list[Block], entering: Tensor, ropes: Any, layers: set[int], text: Tensor, place: Tensor
) -> dict[int, Tensor]:
    """Residual streams [places, width] after some layers, at some places of some texts."""
    found: dict[int, Tensor] = {}

    def see(layer: int, x: Tensor) -> None:
        if layer - 1 in layers:
            found[layer - 1] = x[text, place]

    last = walk(blocks, entering, ropes, causal, see)
    return found | {blocks[-1].index: last[text, place]}


class _Strength:
    """Asked which neurons run, it answers all, and adds up what every neuron does."""

    def __init__(self, block: Block, strength: Tensor) -> None:
        self._block, self._strength = block, strength

    def neurons(self, x: Tensor) -> None:
        block = self._block
        active = firing(block, read_of(block, x)).mean(0)
        self._strength[block.index] += active * block.down.weight.float().norm(dim=0)
