"""One training for all kinds of draft heads: the same text, steps, draft vocabulary, weights of heads and loss."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from workbench.models import Model
from workbench.parts.heads import DraftHeads
from workbench.settings import settings
from workbench.training._accuracy import note_ranks
from workbench.training._forward import residual
from workbench.training._recipe import Recipe
from workbench.training._vocabulary import most_frequent


@settings
class DraftHeadsRecipe(Recipe):
    """Distils the frozen model's own later distributions into heads over its features.

    Parameters
    ----------
    steps, batch, length : int
    learning_rate : float
    heads : int
        Tokens ahead.
    vocabulary : int
        Most frequent tokens of the training text that can be drafted.
    decay : float
        Weight of a head over that of the one before it, as in Medusa.

    Notes
    -----
    The loss of a head is the cross-entropy between the model's distribution over the draft vocabulary, where it really
    stood in the text, and the head's; it counts where the text was written by the model and the token can be drafted.
    """

    steps: Annotated[int, Field(ge=1, description="optimiser steps")] = 450
    batch: Annotated[int, Field(ge=1, description="sequences of a step")] = 8
    length: Annotated[int, Field(ge=8, description="tokens of a sequence")] = 512
    learning_rate: Annotated[float, Field(gt=0, description="peak learning rate")] = 1e-3
    heads: Annotated[int, Field(ge=1, le=8, description="tokens ahead")] = 4
    vocabulary: Annotated[int, Field(ge=8, description="tokens that can be drafted")] = 8192
    decay: Annotated[float, Field(gt=0, le=1, description="weight of a head over that of the one before")] = 0.8

    kind: ClassVar[type[DraftHeads]]
    about = "on the frozen model's features, by the training that all draft heads share."

    def prepare(self, model: Model, tokens: Tensor) -> dict[str, Any]:
        kept, covered = most_frequent(model, tokens.flatten(), self._size(model))
        return {"vocabulary": kept.int(), "covered": covered}

    def part(self, model: Model) -> DraftHeads:
        ids = torch.arange(self._size(model), dtype=torch.int32)
        return self.kind(model.anatomy.width, self.heads, ids).to(model.device)

    def loss(self, model: Model, part: DraftHeads, tokens: Tensor, answer: Tensor) -> tuple[Tensor, dict[str, float]]:
        ids = part.vocabulary.long()
        anatomy = model.anatomy
        with torch.no_grad():
            features = anatomy.final_norm(residual(anatomy, tokens))
            unembedding = anatomy.unembedding[ids]
            bias = None if anatomy.unembedding_bias is None else anatomy.unembedding_bias[ids]
            taught = F.embedding(tokens, part.token_rows(model))
            place = torch.full((anatomy.vocabulary,), -1, device=tokens.device)
            place[ids] = torch.arange(len(ids), device=tokens.device)
        rows = part.rows(features.float(), taught.float())
        total, hits, figures = features.new_zeros((), dtype=torch.float32), [], {}
        for depth, given in enumerate(rows, 1):
            label = place[tokens[:, depth + 1 :]]
            counted = answer[:, depth + 1 :] & (label >= 0)
            student = given[:, : label.shape[1]][counted].to(unembedding.dtype)
            student = anatomy.finish(F.linear(student, unembedding, bias).float())
            with torch.no_grad():
                taken = features[:, depth : depth + label.shape[1]][counted]
                teacher = anatomy.finish(F.linear(taken, unembedding, bias).float()).softmax(-1)
            each = F.cross_entropy(student, teacher, reduction="sum") / counted.sum().clamp(min=1)
            total = total + self.decay ** (depth - 1) * each
            # A token that cannot be drafted is a miss of every rank.
            hits.append(_hits(student, label[counted], answer[:, depth + 1 :].sum(), part.acceptance.shape[1]))
            figures[f"accuracy_{depth}"] = float(hits[-1][0])
        note_ranks(part, torch.stack(hits))
        return total, figures

    def _size(self, model: Model) -> int:
        return min(self.vocabulary, model.anatomy.vocabulary)


@torch.no_grad()
def _hits(logits: Tensor, label: Tensor, asked: Tensor, ranks: int) -> Tensor:
    """Share [ranks] of the tokens asked for that stand at each rank of the logits [rows, vocabulary]."""
    return (logits.topk(ranks, -1).indices == label[:, None]).sum(0) / asked.clamp(min=1)
