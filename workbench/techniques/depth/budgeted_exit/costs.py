"""What a token that leaves at an exit costs, and what the layers below it take to hold."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from workbench.engine.block_cost import block_cost
from workbench.models import Anatomy, Block, Model
from workbench.models.variant import leaves
from workbench.parts.exits import Lens


class Costs:
    """Counted operations of one token of a model, as a step counts them (:mod:`workbench.cost.count`).

    Parameters
    ----------
    model : Model
    places : Tensor [tokens]
        Of how many tokens each was the last one when it was computed: it reads as many keys, or a window of them.

    Attributes
    ----------
    full : float
        A token through all layers and the unembedding.
    """

    def __init__(self, model: Model, places: Tensor) -> None:
        self._anatomy = anatomy = model.anatomy
        self._layers = [_layer(block, places) for block in anatomy.blocks]
        self._head = anatomy.head.flops(1)
        self.full = sum(self._layers) + self._head

    def exit(
        self,
        layer: int,
        deepest: int,
        checks: Sequence[int] = (),
        lens: Lens | None = None,
        vocabulary: int = 0,
        copies: bool = False,
    ) -> float:
        """Share of the full model's operations of a token that leaves after a layer.

        Parameters
        ----------
        layer : int
        deepest : int
            Last layer that is there, after which all leave.
        checks : sequence of int
            Layers after which tokens are looked at; not ``deepest``.
        lens : Lens, optional
            What looks. The last layer of the model needs none.
        vocabulary : int
            Tokens that a look is at; with all of them it is the unembedding too.
        copies : bool
            Whether keys and values of the layers between are made of the stream that left.
        """
        total = float(sum(self._layers[: layer + 1]))
        heads = [lens.head(each, vocabulary) for each in checks if each <= layer]
        total += sum(head.flops(1) for head in heads)
        seen = layer in checks
        if not (seen and heads[-1].all_tokens):
            total += self._head
        if not seen and layer < len(self._layers) - 1:
            total += lens.flops(layer, 1)
        if copies:
            left_out = self._anatomy.blocks[layer + 1 : deepest + 1]
            attending = [block for block in left_out if not block.mixer.recurrent]
            total += sum(block.query_key_value.flops(1) for block in attending)
        return total / self.full


def _layer(block: Block, places: Tensor) -> int:
    read = 0.0
    if not block.mixer.recurrent:
        read = float((places if block.window is None else places.clamp(max=block.window)).double().mean())
    return block_cost(block).flops(1, read, 0 if block.router is None else block.router.chosen)


def held(anatomy: Anatomy, layers: int) -> float:
    """Bytes of the weights with the first so many layers alone, over those with all: embedding, layers, final norm and
    unembedding; what two of them share is there once."""
    always = _bytes([anatomy.embedding, *_tensors(anatomy.head), *_tensors(anatomy.final_norm)])
    each = [_bytes(_tensors(block)) for block in anatomy.blocks]
    return (always + sum(each[:layers])) / (always + sum(each))


def _tensors(part: Any) -> Iterator[Tensor]:
    for _, value in leaves(part):
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, torch.nn.Module):
            yield from value.parameters()


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum({each.data_ptr(): each.numel() * each.element_size() for each in tensors}.values())
