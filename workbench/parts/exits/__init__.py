"""Lenses: what a model would say of a residual stream that has not run to its end, tuned or as it stands."""

from workbench.parts.exits.fields import LensName, Vocabulary
from workbench.parts.exits.lens import Lens, LensHead, LogitLens
from workbench.parts.exits.loading import NAME, load_lens
from workbench.parts.exits.tuned import Translators, TunedLens

__all__ = ["NAME", "Lens", "LensHead", "LensName", "LogitLens", "Translators", "TunedLens", "Vocabulary", "load_lens"]
