"""Lenses: what a model says of a residual stream that has not run to its end, as it stands, tuned or run ahead."""

from workbench.parts.exits.accelerated import AcceleratedLens, Accelerators, load_accelerated
from workbench.parts.exits.fields import LensName, Vocabulary, checked_layers
from workbench.parts.exits.lens import Lens, LensHead, LogitLens
from workbench.parts.exits.loading import NAME, load_lens, tuned_maps
from workbench.parts.exits.tuned import Translators, TunedLens

__all__ = [
    "NAME",
    "AcceleratedLens",
    "Accelerators",
    "Lens",
    "LensHead",
    "LensName",
    "LogitLens",
    "Translators",
    "TunedLens",
    "Vocabulary",
    "checked_layers",
    "load_accelerated",
    "load_lens",
    "tuned_maps",
]
