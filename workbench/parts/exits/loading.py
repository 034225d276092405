"""The lens of a model by name."""

from __future__ import annotations

import functools

from workbench.models import Model
from workbench.parts.exits.lens import Lens, LogitLens
from workbench.parts.exits.tuned import Translators, TunedLens
from workbench.parts.loading import part_tensors

NAME = "tuned_lens"
_UNTRAINED_RANK = 4


def load_lens(model: Model, weights: str = "bundled") -> Lens:
    """A lens of ``model``.

    Parameters
    ----------
    model : Model
    weights : str
        ``logit``: the logit lens, which is not trained; ``bundled``: the tuned lens that comes with the workbench;
        ``untrained``: one of random numbers of a fixed seed; else the path of a ``.safetensors`` file.

    Raises
    ------
    ArtifactError
        A SettingError: there is no tuned lens for this model, or the file is of something else. It says how to train
        one; ``logit`` needs none.
    """
    return LogitLens(model) if weights == "logit" else TunedLens(model, tuned_maps(model, weights))


def tuned_maps(model: Model, weights: str = "bundled") -> Translators:
    """The maps of a tuned lens of ``model``, as :func:`load_lens` finds them."""
    sizes = model.layers, model.anatomy.width, _UNTRAINED_RANK, model.anatomy.vocabulary
    tensors = part_tensors(NAME, model, weights, functools.partial(Translators, *sizes))
    return Translators.of(tensors, model)
