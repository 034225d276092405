"""Low-rank changes of a model's upper blocks with which its first layers, and its first neurons, are models of their own.

Source
------
Valipour et al., Sorted LLaMA: Unlocking the Potential of Intermediate Layers of Large Language Models for Dynamic
Inference, 2023, arXiv 2309.08968; Valipour et al., SortedNet, 2023, arXiv 2309.00255. The low-rank change of a weight:
Hu et al., LoRA, 2021, arXiv 2106.09685.

``W' = W + U D`` for every linear map of the blocks from ``first`` on. The sub-model of n layers is the first n blocks,
the final norm and the unembedding; that of a share of the width keeps in the MLPs of these blocks the first neurons of
an order of importance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workbench.artifacts import fit
from workbench.errors import ArtifactError, SettingError
from workbench.models import Block, Model
from workbench.models.neurons import narrowed, rows_of
from workbench.models.projection import LinearMap, Projection
from workbench.parts.loading import part_tensors, sizes

NAME = "sorted_exit"
KINDS = ("query_key_value", "attention_output", "up", "down")
"""Linear maps of a block that change."""


class SortedAdapter(nn.Module):
    """The trained change of the upper blocks of a dense model.

    Parameters
    ----------
    shapes : dict of str to (int, int)
        Outputs and inputs of every linear map that changes, by its name: :func:`shapes_of`.
    rank : int
    neurons : int
        Of a block's MLP.
    depths : sequence of int
        Layers of the sub-models, increasing.
    widths : sequence of float
        Shares of the MLPs' neurons of the sub-models, falling.
    vocabulary : int
        Tokens whose order by frequency is kept.

    Attributes
    ----------
    first : int
        The first block that changes.
    order : int32 Tensor [blocks that change, neurons], a buffer
        Neurons of each of them, the most important first.
    depths, widths : Tensor, buffers
    vocabulary : int32 Tensor [tokens], a buffer
        The most frequent tokens, the most frequent first.
    acceptance : Tensor [widths, depths], a buffer
        Share of held-out places where a sub-model has the untouched model's first token.

    Notes
    -----
    Of a map of shape [outputs, inputs] the change's two factors are [rank, inputs], ``15/up/in`` in the
    ``state_dict``, and [outputs, rank], ``15/up/out``, which begins at nought.
    """

    order: Tensor
    depths: Tensor
    widths: Tensor
    vocabulary: Tensor
    acceptance: Tensor

    def __init__(
        self,
        shapes: dict[str, tuple[int, int]],
        rank: int,
        neurons: int,
        depths: Sequence[int],
        widths: Sequence[float],
        vocabulary: int,
    ) -> None:
        super().__init__()
        for name, (outputs, inputs) in shapes.items():
            self.register_parameter(f"{name}/in", nn.Parameter(torch.randn(rank, inputs) * inputs**-0.5))
            self.register_parameter(f"{name}/out", nn.Parameter(torch.zeros(outputs, rank)))
        layers = {int(name.split("/")[0]) for name in shapes}
        self.first = min(layers)
        self.register_buffer("order", torch.arange(neurons, dtype=torch.int32).repeat(len(layers), 1))
        self.register_buffer("depths", torch.tensor(depths, dtype=torch.int32))
        self.register_buffer("widths", torch.tensor(widths))
        self.register_buffer("vocabulary", torch.arange(vocabulary, dtype=torch.int32))
        self.register_buffer("acceptance", torch.zeros(len(widths), len(depths)))

    def factors(self, layer: int, kind: str) -> tuple[Tensor, Tensor]:
        """The change of a block's linear map, as [rank, inputs] and [outputs, rank]."""
        return self.get_parameter(f"{layer}/{kind}/in"), self.get_parameter(f"{layer}/{kind}/out")

    def kept(self, layer: int, width: float) -> Tensor:
        """Neurons of a block that a share of the width keeps, int Tensor, increasing."""
        count = max(1, round(width * self.order.shape[1]))
        return self.order[layer - self.first, :count].long().sort().values


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
        return (weight.to(self.low.dtype) + self.high @ self.low).to(weight.dtype)

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


def sorted_blocks(model: Model, part: SortedAdapter, width: float = 1.0, strength: float = 1.0) -> dict[int, Block]:
    """The blocks that change, by layer, with a share ``width`` of their neurons and ``strength`` times the change, which
    is kept apart (:class:`Changed`)."""
    made = {}
    for block in model.anatomy.blocks[part.first :]:
        kept = None if width >= 1 else part.kept(block.index, width)
        rows = None if kept is None else rows_of(block, kept)
        thin = block if kept is None else narrowed(block, kept)
        made[block.index] = _with(thin, _changes(part, block.index, strength, rows, kept))
    return made


def merged(block: Block) -> Block:
    """A block of :func:`sorted_blocks` with dense weights."""
    return _with(block, lambda _, linear: linear.merged())


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
    made = {kind: change(kind, getattr(block, kind)) for kind in KINDS}
    mixer = replace(block.mixer, **{kind: made.pop(kind) for kind in KINDS[:2]})
    return replace(block, mixer=mixer, **made)


def shapes_of(model: Model, first: int) -> dict[str, tuple[int, int]]:
    """Outputs and inputs of the linear maps that change in the blocks from ``first`` on, by name: ``15/up``.

    Raises
    ------
    SettingError
        If a block of the model is not dense, or mixes tokens otherwise than by attention.
    """
    for block in model.anatomy.blocks:
        if block.router is not None or block.mixer.recurrent:
            raise SettingError(f"a sorted model is dense and attends; layer {block.index} of {model.name} is not so")
    found = {}
    for block in model.anatomy.blocks[first:]:
        for kind in KINDS:
            outputs, inputs = getattr(block, kind).weight.shape
            found[f"{block.index}/{kind}"] = (outputs, inputs)
    return found


def neurons_of(model: Model) -> int:
    """Neurons of every block's MLP.

    Raises
    ------
    SettingError
        If blocks have different numbers.
    """
    numbers = {block.down.weight.shape[1] for block in model.anatomy.blocks}
    if len(numbers) != 1:
        raise SettingError(f"blocks of {model.name} have MLPs of different widths: {sorted(numbers)}")
    return numbers.pop()


def depths_of(layers: int, every: int, shallowest: int) -> list[int]:
    """Layers of sub-models: every so many down from all of them."""
    return [*range(layers, min(shallowest, layers) - 1, -every)][::-1]


def widths_of(narrowest: float, count: int) -> list[float]:
    """Shares of the width: ``count`` in even steps from 1 down."""
    return [1 - (1 - narrowest) * place / max(1, count - 1) for place in range(count)]
