"""Gates and inference modules of :class:`workbench.techniques.JointExit`, trained together.

Paper
-----
Regol, Chataoui, Coates, Jointly-Learned Exit and Inference for a Dynamic Neural Network: JEI-DNN, 2023, arXiv
2310.09163.

Source
------
github.com/networkslab/dynn

What is to be least is the loss and the price of where a token leaves,

    mean over tokens of sum_l P_l (CE_l + tradeoff cost_l),

with P of :mod:`workbench.parts.exits.joint`, CE_l the cross-entropy of exit l with the last layer's first token, and
cost_l the operations to there of those of the whole way. As in the paper that is a problem of two levels, each with a
surrogate of its own:

- the maps, the gates being as they are: ``sum_l P_l CE_l``;
- the gates, the maps being as they are: with l* the exit of the least ``CE_l + tradeoff cost_l``, the binary
  cross-entropy of every gate with ``l >= l*``.

Deviates
--------
The paper takes turns of some 200 batches; as neither surrogate has a gradient for the other level, one step here is
one of both. Its label is the data's, here it is the last layer's first token, so that the last exit has no loss of its
own. Its public code clips ``max(0, min(g_l, 1 - sum_{k<l} g_k))`` to a distribution; here g_l is the chance for a token
that has come so far. The warm-up of the modules is a tuned lens that is there already; they are of low rank before the
model's own head, as a head for each exit would have 28 million numbers. No class is weighted.
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from workbench import artifacts
from workbench.models import Model
from workbench.parts.exits import NAME as LENS
from workbench.parts.exits import tuned_maps
from workbench.parts.exits.joint import JointExits, exit_distribution, exit_layers, features, gate_flops
from workbench.settings import outside, settings
from workbench.training._forward import some_places, streams
from workbench.training._recipe import Recipe, register
from workbench.training._vocabulary import most_frequent
from workbench.training.data import DataSettings


@register
@settings
class JointExit(Recipe):
    """Exit-weighted cross-entropy for the maps, the best exit of every token for the gates.

    Parameters
    ----------
    steps, batch, length : int
    learning_rate : float
    lens : str
        Tuned lens that the maps begin as: ``bundled`` or a file; ``logit`` begins as the identity.
    rank : int
        Of the maps, where they begin as the identity.
    first : float
        Share of the layers before the first exit.
    every : int
        Layers from one exit to the next.
    places : int
        Tokens of a batch that are learned from.
    vocabulary : int
        Most frequent tokens of the training text, at whose logits the gates look.
    tradeoff : float
        Nats of cross-entropy that the whole model's operations are worth.

    Notes
    -----
    ``loss`` is the sum above; its gradient is that of the two surrogates. Figures: ``entropy_of_exits`` and ``gates``,
    the surrogates [nats]; ``cost``, the expected share of the operations; and of tokens that leave at the first gate
    above one half ``left``, their share, ``depth``, the mean share of the layers run, and ``accuracy``, the share that
    say the last layer's first token. Those who do not leave are right. ``best_depth`` is that of l*.
    """

    steps: Annotated[int, Field(ge=1, description="optimiser steps")] = 440
    batch: Annotated[int, Field(ge=1, description="texts of a step")] = 4
    length: Annotated[int, Field(ge=8, description="tokens of a text")] = 256
    learning_rate: Annotated[float, Field(gt=0, description="peak learning rate")] = 4e-4
    lens: Annotated[str, outside("lens", "lens that it begins as: bundled, logit, or a file", min_length=1)] = "bundled"
    rank: Annotated[int, Field(ge=1, description="rank of maps that begin as the identity")] = 64
    first: Annotated[float, Field(ge=0, lt=1, description="share of the layers before the first exit")] = 0.6
    every: Annotated[int, Field(ge=1, description="layers from one exit to the next")] = 3
    places: Annotated[int, Field(ge=1, description="places of a batch that are learned from")] = 240
    vocabulary: Annotated[int, Field(ge=2, description="frequent tokens that gates look at")] = 2048
    tradeoff: Annotated[float, Field(ge=0, description="nats that all operations are worth")] = 1.0

    paper = "Regol et al., JEI-DNN, 2023, arXiv 2310.09163"
    data = DataSettings(sampled=1, continued=1, new_tokens=160, length=512)

    def prepare(self, model: Model, tokens: Tensor) -> dict[str, Any]:
        kept, covered = most_frequent(model, tokens, min(self.vocabulary, model.anatomy.vocabulary))
        found = {"vocabulary": kept.int(), "covered": covered}
        begun = {} if self.lens == "logit" else {"lens": artifacts.load(LENS, model, self.lens)[1]["sha256"]}
        return found | begun

    def part(self, model: Model) -> JointExits:
        layers, width = exit_layers(model.layers, self.first, self.every), model.anatomy.width
        maps = None if self.lens == "logit" else tuned_maps(model, self.lens)
        rank = min(self.rank, width) if maps is None else maps.down.shape[1]
        part = JointExits(layers, width, rank, min(self.vocabulary, model.anatomy.vocabulary)).to(model.device)
        if maps is not None:
            # The first map of a lens is the embedding's.
            places = torch.tensor(layers, device=model.device) + 1
            with torch.no_grad():
                for name in ("down", "up", "bias"):
                    part.get_parameter(name).copy_(getattr(maps, name)[places])
        return part

    def loss(self, model: Model, part: JointExits, tokens: Tensor, answer: Tensor) -> tuple[Tensor, dict[str, float]]:
        anatomy = model.anatomy
        text, place = some_places(answer, self.places)
        with torch.no_grad():
            *_, last = found = streams(anatomy, tokens, text, place)
            label = anatomy.unembed(last).argmax(-1)
        after = torch.stack([found[layer + 1] for layer in part.layers.tolist()])
        logits = anatomy.unembed(part(after).to(model.dtype))
        exits, rows, _ = logits.shape
        wrong = F.cross_entropy(logits.flatten(0, 1).float(), label.repeat(exits), reduction="none").view(exits, rows)
        odds = part.odds(features(logits.detach()[..., part.vocabulary.long()]))
        leaves = exit_distribution(odds.detach().sigmoid())
        costs = exit_costs(model, part).to(odds)
        modules = (leaves[:-1] * wrong).sum(0).mean()
        price = torch.cat((wrong.detach(), torch.zeros_like(wrong[:1]))) + self.tradeoff * costs[:, None]
        best = price.argmin(0)
        due = torch.arange(exits, device=best.device)[:, None] >= best
        gates = F.binary_cross_entropy_with_logits(odds, due.to(odds))
        # The loss has the value that is to be least, and the surrogates' gradient.
        surrogate = modules + gates
        loss = surrogate + ((leaves * price).sum(0).mean() - surrogate).detach()
        with torch.no_grad():
            right = torch.cat((logits.argmax(-1) == label, torch.ones_like(label, dtype=torch.bool)[None]))
            goes = torch.cat((odds > 0, torch.ones_like(due[:1]))).int().argmax(0)
            ends = torch.cat((part.layers + 1, part.layers.new_tensor([model.layers]))) / model.layers
            figures = {
                "entropy_of_exits": modules.detach(),
                "gates": gates.detach(),
                "cost": (leaves * costs[:, None]).sum(0).mean(),
                "left": (goes < exits).float().mean(),
                "depth": ends[goes].mean(),
                "best_depth": ends[best].mean(),
                "accuracy": right.gather(0, goes[None]).float().mean(),
            }
        return loss, {key: float(value) for key, value in figures.items()}

    @classmethod
    def example(cls) -> JointExit:
        return cls(steps=2, batch=2, length=24, lens="logit", rank=4, first=0.4, every=1, places=16, vocabulary=32)


def exit_costs(model: Model, part: JointExits) -> Tensor:
    """Operations of a token that leaves at each exit, and at the end, as shares of the latter [exits + 1], float32.

    They are those of the products with weights: blocks, checks, and the unembedding of who leaves. What attention reads
    grows with the text, and is left out.
    """
    anatomy, tokens, layers = model.anatomy, len(part.vocabulary), part.layers.tolist()
    head, maps = anatomy.head.flops(1), 4 * part.down[0].numel()
    check = maps + head * tokens // anatomy.vocabulary + gate_flops(tokens, 1)
    blocks = torch.tensor([block.flops(1) for block in anatomy.blocks], dtype=torch.float64).cumsum(0)
    checked = torch.tensor([*range(1, len(layers) + 1), len(layers)]) * check
    ends = blocks[[*layers, model.layers - 1]] + checked + head
    return (ends / ends[-1]).float()
