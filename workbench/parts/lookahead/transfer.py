"""Linear maps from a token's hidden state at one layer to those of the tokens after it.

Source
------
Wu et al., Parallel Decoding via Hidden Transfer for Lossless Large Language Model Acceleration, 2024, arXiv 2404.12022.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from workbench.artifacts import fit
from workbench.errors import SettingError
from workbench.models import Model
from workbench.models.device import numbers
from workbench.parts.loading import sizes
from workbench.parts.lookahead.base import LookaheadPart
from workbench.parts.trained import trained
from workbench.settings import settings


@settings
class _Training:
    """Linear maps to the hidden states of the next tokens at a middle layer.

    Parameters
    ----------
    layer : int
        Rows enter before it; 0 takes the one at two thirds of the depth.
    match : float
        Weight of the squared distance between a row and the true hidden state at its place, over the true one's size.
    """

    learning_rate: Annotated[float, Field(gt=0, description="peak learning rate")] = 2e-4
    layer: Annotated[int, Field(ge=0, description="rows enter before it; 0: at two thirds of the depth")] = 0
    match: Annotated[float, Field(ge=0, description="weight of the distance to the true hidden states")] = 0.1

    def part(self, model: Model) -> HiddenMaps:
        layer = self.layer or 2 * model.layers // 3
        if layer >= model.layers:
            raise SettingError(f"{model.name} has {model.layers} layers: rows cannot enter before layer {layer}")
        return HiddenMaps(model.anatomy.width, self.orders, layer).to(model.device)

    def further(
        self, made: Tensor, text: Any, at: Tensor, inside: Tensor, counted: Tensor, order: int
    ) -> Tensor | float:
        if not self.match:
            return 0.0
        row = made.unflatten(1, (-1, self.orders))[:, inside, order - 1][counted].float()
        true = text.entering[:, at[inside]][counted].float()
        if not len(true):
            return 0.0
        return self.match * ((row - true).square().mean(-1) / true.square().mean(-1)).mean()


@trained("HiddenTransfer", "Wu et al., Hidden Transfer, 2024, arXiv 2404.12022")
class HiddenMaps(LookaheadPart):
    """The row of order k is ``x + D_k x`` of its root's residual stream x before the layer.

    Parameters
    ----------
    width : int
    orders : int
    layer : int
        Rows enter before it.
    """

    Training = _Training

    def __init__(self, width: int, orders: int, layer: int, ranks: int = 8) -> None:
        super().__init__(orders, ranks)
        self.register_buffer("before_layer", torch.tensor([layer], dtype=torch.int32))
        # Differences from the identity, so that rounding them for storage does not touch what passes unchanged.
        self.maps = nn.Parameter(torch.zeros(orders, width, width))
        self._layer = layer

    @property
    def layer(self) -> int:
        return self._layer

    @property
    def width(self) -> int:
        return self.maps.shape[1]

    @classmethod
    def untrained(cls, model: Model, orders: int) -> Self:
        return cls(model.anatomy.width, orders, 2 * model.layers // 3)

    @classmethod
    def of(cls, tensors: dict[str, Tensor]) -> Self:
        orders, width, _ = sizes(tensors, "maps", 3)
        sizes(tensors, "before_layer", 1)
        part = cls(width, orders, int(tensors["before_layer"][0]), sizes(tensors, "acceptance", 2)[1])
        fit(part, tensors, "file of hidden maps")
        return part

    def rows(self, roots: Tensor, orders: Sequence[int]) -> Tensor:
        order_of = sorted(range(len(orders)), key=orders.__getitem__)
        places = numbers(order_of, roots.device)
        pieces, start = [], 0
        for order in sorted(set(orders)):
            end = start + orders.count(order)
            x = roots.index_select(-2, places[start:end])
            pieces.append(x + (x.to(self.maps.dtype) @ self.maps[order - 1].T).to(x.dtype))
            start = end
        return torch.empty_like(roots).index_copy(-2, places, torch.cat(pieces, -2))
