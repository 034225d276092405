"""Trains independent heads; see :class:`workbench.techniques.MedusaHeads`."""

from __future__ import annotations

from workbench.parts.heads import IndependentHeads
from workbench.settings import settings
from workbench.training._draft_heads import DraftHeadsRecipe
from workbench.training._recipe import register


@register
@settings
class MedusaHeads(DraftHeadsRecipe):
    """IndependentHeads on the frozen model's features, by the training that all draft heads share."""

    kind = IndependentHeads
    paper = "Cai et al., Medusa, 2024, arXiv 2401.10774"
