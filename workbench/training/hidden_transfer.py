"""Trains hidden transfer; see :class:`workbench.techniques.HiddenTransfer`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor

from workbench.errors import SettingError
from workbench.models import Model
from workbench.parts.lookahead import HiddenMaps
from workbench.settings import settings
from workbench.training._ahead import LookaheadRecipe, Text
from workbench.training._recipe import register


@register
@settings
class HiddenTransfer(LookaheadRecipe):
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

    paper = "Wu et al., Hidden Transfer, 2024, arXiv 2404.12022"

    def part(self, model: Model) -> HiddenMaps:
        layer = self.layer or 2 * model.layers // 3
        if layer >= model.layers:
            raise SettingError(f"{model.name} has {model.layers} layers: rows cannot enter before layer {layer}")
        return HiddenMaps(model.anatomy.width, self.orders, layer).to(model.device)

    def further(
        self, made: Tensor, text: Text, at: Tensor, inside: Tensor, counted: Tensor, order: int
    ) -> Tensor | float:
        if not self.match:
            return 0.0
        row = made.unflatten(1, (-1, self.orders))[:, inside, order - 1][counted].float()
        true = text.entering[:, at[inside]][counted].float()
        if not len(true):
            return 0.0
        return self.match * ((row - true).square().mean(-1) / true.square().mean(-1)).mean()
