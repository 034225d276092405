"""Trains sequentially dependent heads; see :class:`workbench.techniques.HydraHeads`."""

from __future__ import annotations

from workbench.parts.heads import DependentHeads
from workbench.settings import settings
from workbench.training._draft_heads import DraftHeadsRecipe
from workbench.training._recipe import register


@register
@settings
class HydraHeads(DraftHeadsRecipe):
    """DependentHeads on the frozen model's features, by the training that all draft heads share."""

    kind = DependentHeads
    paper = "Ankner et al., Hydra, 2024, arXiv 2402.05109"
