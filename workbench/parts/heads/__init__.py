"""Trained draft heads over a frozen model's features: four papers' ways to say the tokens after the next one."""

from workbench.parts.heads.base import DraftHeads
from workbench.parts.heads.dependent import DependentHeads
from workbench.parts.heads.independent import IndependentHeads
from workbench.parts.heads.light import LightDraftModel
from workbench.parts.heads.regressive import RegressiveHeads
from workbench.parts.trained import import_all

__all__ = ["DependentHeads", "DraftHeads", "IndependentHeads", "LightDraftModel", "RegressiveHeads"]

import_all(__name__, __path__)
