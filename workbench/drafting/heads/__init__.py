"""Trained draft heads over a frozen model's features: four papers' ways to say the tokens after the next one."""

from workbench.drafting.heads.base import DraftHeads
from workbench.drafting.heads.dependent import DependentHeads
from workbench.drafting.heads.independent import IndependentHeads
from workbench.drafting.heads.light import LightDraftModel
from workbench.drafting.heads.regressive import RegressiveHeads

__all__ = ["DependentHeads", "DraftHeads", "IndependentHeads", "LightDraftModel", "RegressiveHeads"]
