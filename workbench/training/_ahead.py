"""Training of lookahead rows: frozen texts are read once, then rows for random places run through the frozen layers.

The rows of a place see the text up to there, the rows of the same place with a lower order, and themselves; no token
of the text sees them. So the text needs no gradient, and only the rows are differentiated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from workbench.models import Anatomy, Block, Model
from workbench.models.walk import causal, walk
from workbench.parts.lookahead.base import LookaheadPart, position_shift
from workbench.settings import settings
from workbench.training._accuracy import note_ranks
from workbench.training._recipe import Recipe


@settings
class LookaheadRecipe(Recipe):
    """Distils the model's own later distributions into rows that stand in for the tokens on the way there.

    Parameters
    ----------
    steps, batch, length : int
    learning_rate : float
    orders : int
        Rows of a place, each one token further ahead.
    places : int
        Random places of a text that rows are inserted at in one step; the same in all texts of a batch.
    decay : float
        Weight of an order over that of the one before it.
    """

    steps: Annotated[int, Field(ge=1, description="optimiser steps")] = 450
    batch: Annotated[int, Field(ge=1, description="sequences of a step")] = 4
    length: Annotated[int, Field(ge=8, description="tokens of a sequence")] = 512
    learning_rate: Annotated[float, Field(gt=0, description="peak learning rate")] = 1e-3
    orders: Annotated[int, Field(ge=1, le=8, description="tokens ahead")] = 3
    places: Annotated[int, Field(ge=1, description="places of a text used in one step")] = 48
    decay: Annotated[float, Field(gt=0, le=1, description="weight of an order over that of the one before")] = 0.8

    def loss(
        self, model: Model, part: LookaheadPart, tokens: Tensor, answer: Tensor
    ) -> tuple[Tensor, dict[str, float]]:
        anatomy, orders = model.anatomy, part.orders
        text = read(anatomy, tokens, part.layer)
        places = chosen_places(answer, self.places, orders)
        roots = text.entering[:, places].repeat_interleave(orders, 1)
        made = part.rows(roots, list(range(1, orders + 1)) * len(places))
        out = run_rows(anatomy, text, made, places, orders).unflatten(1, (-1, orders))
        length, total, hits, figures = tokens.shape[1], 0.0, [], {}
        for order in range(1, orders + 1):
            # The row stands at place + order and says the token after it.
            at = places + order
            inside = at + 1 < length
            label, counted = tokens[:, at[inside] + 1], answer[:, at[inside] + 1]
            student = logits(anatomy, out[:, inside, order - 1][counted])
            with torch.no_grad():
                teacher = logits(anatomy, text.residual[:, at[inside]][counted]).softmax(-1)
            each = F.cross_entropy(student, teacher, reduction="sum") / counted.sum().clamp(min=1)
            total = total + self.decay ** (order - 1) * (each + self.further(made, text, at, inside, counted, order))
            ranks = part.acceptance.shape[1]
            right = (student.detach().topk(ranks, -1).indices == label[counted][:, None]).float()
            hits.append(right.sum(0) / counted.sum().clamp(min=1))
            figures[f"accuracy_{order}"] = float(hits[-1][0])
        note_ranks(part, torch.stack(hits))
        return total, figures

    def further(
        self, made: Tensor, text: Text, at: Tensor, inside: Tensor, counted: Tensor, order: int
    ) -> Tensor | float:
        """What a recipe adds to the distillation of one order."""
        return 0.0


@dataclass
class Text:
    """A batch of texts that the frozen model has read.

    Attributes
    ----------
    entering : Tensor [batch, tokens, width]
        Residual stream before the layer that rows enter at.
    keys, values : list of Tensor [batch, kv_heads, tokens, head_dim]
        Of that layer and all after it.
    residual : Tensor [batch, tokens, width]
        After the last block.
    """

    entering: Tensor
    keys: list[Tensor]
    values: list[Tensor]
    residual: Tensor


@torch.no_grad()
def read(anatomy: Anatomy, tokens: Tensor, layer: int) -> Text:
    """Run texts int [batch, tokens] through the frozen model, and keep what rows from ``layer`` on will look at."""
    positions = torch.arange(tokens.shape[1], device=tokens.device)
    ropes = anatomy.rope(positions)
    x = anatomy.embed(tokens, positions)
    entering, keys, values = [x], [], []

    def attend(block: Block, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        if block.index >= layer:
            keys.append(key)
            values.append(value)
        return causal(block, query, key, value)

    def see(index: int, stream: Tensor) -> None:
        if index == layer:
            entering[0] = stream

    residual = walk(anatomy.blocks, x, ropes, attend, see)
    return Text(entering[0], keys, values, residual)


def chosen_places(answer: Tensor, count: int, orders: int) -> Tensor:
    """int Tensor [at most count], increasing: random places that answers of the batch follow after."""
    length = answer.shape[1]
    follows = answer.float().sum(0)[2:]
    at_hand = min(count, int((follows > 0).sum()))
    return torch.multinomial(follows, at_hand).sort().values.clamp(max=length - 3)


def run_rows(anatomy: Anatomy, text: Text, rows: Tensor, places: Tensor, orders: int) -> Tensor:
    """Residual stream [batch, places * orders, width] after the last block of rows [batch, places * orders, width].

    Differentiable in the rows. ``rows`` enter before the layer that ``text`` was kept from; those of a place follow one
    another in order.
    """
    held = text.entering.shape[1]
    order = torch.arange(1, orders + 1, device=places.device).repeat(len(places))
    place = places.repeat_interleave(orders)
    positions = place + order
    group = torch.arange(len(places), device=places.device).repeat_interleave(orders)
    earlier = torch.arange(held, device=places.device)
    sees = torch.cat((earlier <= place[:, None], (group[:, None] == group) & (order[:, None] >= order)), 1)
    distance = positions[:, None] - torch.cat((earlier, positions))
    first = len(anatomy.blocks) - len(text.keys)
    # As the text was read.
    ropes = anatomy.rope(positions, held)
    x = rows.to(text.entering.dtype)
    shift = position_shift(anatomy, positions) if first == 0 else None
    x = x if shift is None else x + shift

    def attend(block: Block, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        mask = sees if block.window is None else sees & (distance < block.window)
        keys = torch.cat((text.keys[block.index - first], key), 2).to(query.dtype)
        values = torch.cat((text.values[block.index - first], value), 2).to(query.dtype)
        if block.scoring.plain:
            return F.scaled_dot_product_attention(query, keys, values, mask, scale=block.scale, enable_gqa=True)
        return block.scoring.attend(query, keys, values, ~mask)

    return walk(anatomy.blocks[first:], x, ropes, attend)


def logits(anatomy: Anatomy, x: Tensor) -> Tensor:
    """Next-token logits [rows, vocabulary] in float32, differentiable."""
    return anatomy.finish(F.linear(anatomy.final_norm(x), anatomy.unembedding, anatomy.unembedding_bias).float())
