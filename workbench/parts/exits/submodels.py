"""The sub-models of a sorted model: blocks with its change and some of their neurons, and what each sub-model costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from workbench.models import Anatomy, Block, Model
from workbench.models.neurons import narrowed, rows_of
from workbench.models.projection import LinearMap, Projection
from workbench.models.variant import varied
from workbench.parts.exits.sorted import KINDS, SortedAdapter


@dataclass
class Changed:
    """A linear map and its change, kept apart: what training multiplies, as a gradient of the whole weight is then not
    computed."""

    plain: LinearMap
    low: Tensor
    high: Tensor

    @property
    def weight(self) -> Tensor:
        weight = self.plain.weight
        exact = torch.promote_types(weight.dtype, torch.float32)
        return (weight.to(exact) + self.high.to(exact) @ self.low.to(exact)).to(weight.dtype)

    @property
    def bias(self) -> Tensor | None:
        return self.plain.bias

    def __call__(self, x: Tensor) -> Tensor:
        return self.plain(x) + F.linear(F.linear(x, self.low.to(x.dtype)), self.high.to(x.dtype))

    def flops(self, rows: int) -> int:
        return self.plain.flops(rows) + 2 * rows * (self.low.numel() + self.high.numel())

    def bytes(self, rows: int) -> int:
        return self.plain.bytes(rows) + (self.low.numel() + self.high.numel()) * self.low.element_size()

    def merged(self) -> Projection:
        """One dense map of both."""
        return Projection(self.weight, self.bias, getattr(self.plain, "multiply", None))


class SubModel(NamedTuple):
    """One of the models in a sorted one.

    Attributes
    ----------
    depth : int
        Its layers.
    width : float
        Share of the neurons in the MLPs that change.
    layers, flops : float
        Share of the whole model's layers, and of the operations of one token in all linear maps, the unembedding's
        among them.
    accuracy : float
        Share of held-out places where its first token is the untouched model's; 0 where that was not measured.
    """

    depth: int
    width: float
    layers: float
    flops: float
    accuracy: float


def submodels(model: Model, part: SortedAdapter) -> list[SubModel]:
    """All of them, by width and then by depth, the smallest first."""
    blocks, head, found = model.anatomy.blocks, model.anatomy.head.flops(1), []
    whole = [block.flops(1) for block in blocks]
    for row, width in reversed(list(enumerate(part.widths.tolist()))):
        gone = 1 - part.count(width) / part.order.shape[1]
        spared = [gone * (block.up.flops(1) + block.down.flops(1)) for block in blocks[part.first :]]
        cost = [*whole[: part.first], *(flops - less for flops, less in zip(whole[part.first :], spared))]
        for column, depth in enumerate(part.depths.tolist()):
            share = (sum(cost[:depth]) + head) / (sum(whole) + head)
            found.append(SubModel(depth, width, depth / len(whole), share, float(part.acceptance[row, column])))
    return found


def sorted_view(anatomy: Anatomy, part: SortedAdapter, width: float, strength: float) -> Anatomy:
    """A view with the change, merged into the weights."""
    blocks = sorted_blocks(anatomy, part, width, strength)
    return varied(anatomy, others={layer: merged(block) for layer, block in blocks.items()})


def sorted_blocks(anatomy: Anatomy, part: SortedAdapter, width: float = 1.0, strength: float = 1.0) -> dict[int, Block]:
    """The blocks that change, by layer, with a share ``width`` of their neurons.

    They have ``strength`` times the change, kept apart (:class:`Changed`), and none where that is 0. Of a sublayer that
    was removed nothing changes.
    """
    made = {}
    for block in anatomy.blocks[part.first :]:
        thin, rows, kept = block, None, None
        if width < 1 and block.up is not None:
            kept = part.kept(block.index, width)
            thin, rows = narrowed(block, kept), rows_of(block, kept)
        made[block.index] = _with(thin, _changes(part, block.index, strength, rows, kept)) if strength else thin
    return made


def merged(block: Block) -> Block:
    """A block of :func:`sorted_blocks` with dense weights."""
    return _with(block, lambda _, linear: linear.merged() if isinstance(linear, Changed) else linear)


def _changes(
    part: SortedAdapter, layer: int, strength: float, rows: Tensor | None, columns: Tensor | None
) -> Callable[[str, LinearMap], LinearMap]:
    def change(kind: str, linear: LinearMap) -> LinearMap:
        low, high = part.factors(layer, kind)
        if kind == "up" and rows is not None:
            high = high[rows]
        if kind == "down" and columns is not None:
            low = low[:, columns]
        return Changed(linear, low, high if strength == 1 else strength * high)

    return change


def _with(block: Block, change: Callable[[str, LinearMap], LinearMap]) -> Block:
    """A block whose linear maps are what ``change(kind, linear map)`` gives."""
    if block.has_mixer:
        mixing = {kind: change(kind, getattr(block.mixer, kind)) for kind in KINDS[:2]}
        block = replace(block, mixer=replace(block.mixer, **mixing))
    if block.up is None:
        return block
    return replace(block, **{kind: change(kind, getattr(block, kind)) for kind in KINDS[2:]})
