"""Trains regressive heads; see :class:`workbench.techniques.Clover`."""

from __future__ import annotations

from workbench.parts.heads import RegressiveHeads
from workbench.settings import settings
from workbench.training._draft_heads import DraftHeadsRecipe
from workbench.training._recipe import register


@register
@settings
class Clover(DraftHeadsRecipe):
    """RegressiveHeads on the frozen model's features, by the training that all draft heads share."""

    kind = RegressiveHeads
    paper = "Xiao et al., Clover, 2024, arXiv 2405.00263"
