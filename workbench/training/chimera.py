"""Trains a light draft model; see :class:`workbench.techniques.Chimera`."""

from __future__ import annotations

from workbench.parts.heads import LightDraftModel
from workbench.settings import settings
from workbench.training._draft_heads import DraftHeadsRecipe
from workbench.training._recipe import register


@register
@settings
class Chimera(DraftHeadsRecipe):
    """LightDraftModel on the frozen model's features, by the training that all draft heads share."""

    kind = LightDraftModel
    paper = "Zeng et al., Chimera, 2024, arXiv 2402.15758"
