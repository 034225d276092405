"""Trains padding positions to say the tokens further on; see :class:`workbench.techniques.LexicalUnits`.

Paper
-----
Sun et al., Decoding at the Speed of Thought: Harnessing Parallel Decoding of Lexical Units for LLMs, 2024, arXiv
2405.15208.

Deviates
--------
The paper fine-tunes the whole model on texts in which the tokens of a lexical unit, those that the model foresees with
confidence, are replaced by padding. Here the model is frozen, the padding embeddings and a low-rank map from the last
token are trained at random places of texts, and what they learn is the model's own greedy choice at each place: where
that cannot be foreseen, the rows learn to say so by a low probability.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from workbench.models import Model
from workbench.parts.lookahead.base import entering_rows
from workbench.parts.lookahead.padding import Padding
from workbench.settings import settings
from workbench.training._accuracy import note_ranks
from workbench.training._ahead import LookaheadRecipe, chosen_places, logits, read, run_rows
from workbench.training._recipe import register


@register
@settings
class LexicalUnits(LookaheadRecipe):
    """Padding embeddings with a low-rank map, by cross-entropy to the model's own later choices.

    Parameters
    ----------
    rank : int
        Of the map from the last token's embedding.
    confident : float
        Probability from which a token counts as one of the unit, for the figures of the curve alone.
    """

    learning_rate: Annotated[float, Field(gt=0, description="peak learning rate")] = 3e-3
    rank: Annotated[int, Field(ge=1, description="rank of the map from the last token")] = 64
    confident: Annotated[float, Field(gt=0, lt=1, description="probability that the curve counts from")] = 0.9

    paper = "Sun et al., Lexical Unit Decoding, 2024, arXiv 2405.15208"

    def part(self, model: Model) -> Padding:
        table = entering_rows(model)
        spread = table.std(0) * torch.randn(self.orders, table.shape[1], device=table.device)
        return Padding(table.mean(0) + spread, self.rank).to(model.device)

    def loss(self, model: Model, part: Padding, tokens: Tensor, answer: Tensor) -> tuple[Tensor, dict[str, float]]:
        anatomy, orders, length = model.anatomy, part.orders, tokens.shape[1]
        text = read(anatomy, tokens, 0)
        places = chosen_places(answer, self.places, orders)
        roots = text.entering[:, places].repeat_interleave(orders, 1)
        made = part.rows(roots, list(range(1, orders + 1)) * len(places))
        out = run_rows(anatomy, text, made, places, orders).unflatten(1, (-1, orders))
        total, hits, figures = tokens.new_zeros((), dtype=torch.float32), [], {}
        for order in range(1, orders + 1):
            at = places + order
            inside = at + 1 < length
            counted = answer[:, at[inside] + 1]
            student = logits(anatomy, out[:, inside, order - 1][counted])
            with torch.no_grad():
                label = logits(anatomy, text.residual[:, at[inside]][counted]).argmax(-1)
            count = max(1, len(label))
            total = total + self.decay ** (order - 1) * F.cross_entropy(student, label, reduction="sum") / count
            with torch.no_grad():
                chance, best = student.softmax(-1).max(-1)
                right, sure = best == label, chance >= self.confident
                hits.append(right.float().sum(0, keepdim=True) / count)
                figures |= {
                    f"accuracy_{order}": float(hits[-1]),
                    f"confident_{order}": float(sure.sum()) / count,
                    f"confident_right_{order}": float((sure & right).sum()) / count,
                }
        note_ranks(part, torch.stack(hits))
        return total, figures
