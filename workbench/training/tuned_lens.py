"""The tuned lens of a model; see :class:`workbench.parts.exits.TunedLens`.

Paper
-----
Belrose et al., Eliciting Latent Predictions from Transformers with the Tuned Lens, 2023, arXiv 2303.08112.

Source
------
github.com/AlignmentResearch/tuned-lens

Every map begins as the identity and learns to make KL(last layer || lens) least, each layer for itself.

Deviates
--------
The paper trains full maps with Nesterov momentum on 65 million tokens of the model's pre-training text; here maps of
low rank are trained with AdamW on places of answers that the model itself wrote: the text that exits and drafts meet.
All layers of one step learn from the same few places, as most of the cost is the unembedding of every layer.
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from workbench.models import Model
from workbench.parts.exits import Translators
from workbench.settings import settings
from workbench.training._accuracy import note_ranks
from workbench.training._forward import some_places, streams
from workbench.training._recipe import Recipe, register
from workbench.training._vocabulary import most_frequent
from workbench.training.data import DataSettings


@register
@settings
class TunedLens(Recipe):
    """Affine maps from every layer's residual stream to the last one's, by KL divergence to the last layer.

    Parameters
    ----------
    rank : int
        Of the maps beside the identity.
    places : int
        Tokens of a batch that every layer learns from in a step.
    vocabulary : int
        Most frequent tokens of the training text to be kept with the lens, for heads that look at few.

    Notes
    -----
    ``loss`` is the mean over layers of KL(last || lens) [nats], ``accuracy`` that of the share of places where lens and
    last layer have the same first token; ``accuracy_half`` and ``accuracy_late`` are that share at a half and at five
    sixths of the depth.
    """

    steps: Annotated[int, Field(ge=1, description="optimiser steps")] = 800
    batch: Annotated[int, Field(ge=1, description="texts of a step")] = 4
    length: Annotated[int, Field(ge=8, description="tokens of a text")] = 256
    learning_rate: Annotated[float, Field(gt=0, description="peak learning rate")] = 1e-3
    rank: Annotated[int, Field(ge=1, description="rank of the maps")] = 64
    places: Annotated[int, Field(ge=1, description="places of a batch that all layers learn from")] = 24
    vocabulary: Annotated[int, Field(ge=1, description="frequent tokens kept with it")] = 16384

    paper = "Belrose et al., Tuned Lens, 2023, arXiv 2303.08112"
    data = DataSettings(sampled=1, continued=1, new_tokens=160, length=512)

    def prepare(self, model: Model, tokens: Tensor) -> dict[str, Any]:
        kept, covered = most_frequent(model, tokens, self._size(model))
        return {"vocabulary": kept.int(), "covered": covered}

    def part(self, model: Model) -> Translators:
        rank = min(self.rank, model.anatomy.width)
        return Translators(model.layers, model.anatomy.width, rank, self._size(model)).to(model.device)

    def loss(self, model: Model, part: Translators, tokens: Tensor, answer: Tensor) -> tuple[Tensor, dict[str, float]]:
        anatomy = model.anatomy
        text, place = some_places(answer, self.places)
        with torch.no_grad():
            *entering, last = streams(anatomy, tokens, text, place)
            target = anatomy.unembed(last).float().log_softmax(-1)
            probability, best = target.exp(), target.argmax(-1)
            entropy = -(probability * target).sum(-1)
        logits = anatomy.unembed(part(torch.stack(entering)).to(model.dtype)).float()
        loss = (logits.logsumexp(-1) - (probability * logits).sum(-1) - entropy).mean()
        firsts = logits.detach().topk(part.acceptance.shape[1], -1).indices
        shares = (firsts == best[:, None]).float().mean(1)
        note_ranks(part, shares)
        right = shares[:, 0].tolist()
        figures = {
            "accuracy": sum(right) / len(right),
            # The first stream is the embedding's.
            "accuracy_half": right[len(right) // 2],
            "accuracy_late": right[5 * len(right) // 6],
        }
        return loss, figures

    def _size(self, model: Model) -> int:
        return min(self.vocabulary, model.anatomy.vocabulary)
