"""Training from first to last: find recipe and text, take the steps, write what came of it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from workbench.files import file_name
from workbench.models import Model
from workbench.models.bundled import cache_folder
from workbench.settings import build
from workbench.training._recipe import RECIPES
from workbench.training.data import DataSettings, TrainingData
from workbench.training.loop import Training
from workbench.training.optimiser import Optimiser, check
from workbench.training.writing import Progress, training_data


def train(
    name: str,
    model: Model,
    out: str | Path | None = None,
    data: TrainingData | str | Path | DataSettings | None = None,
    resume: bool = False,
    seed: int = 0,
    checkpoint_every: int = 100,
    evaluations: int = 10,
    optimiser: Optimiser = "adamw",
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
    **settings: Any,
) -> dict[str, Any] | None:
    """Train a part and write it, as it was where its held-out loss was least, with its card.

    That step is chosen on the held-out texts that the card's result is over; :func:`workbench.training.score` tells how
    the part does on others.

    Parameters
    ----------
    name : str
        Of a recipe.
    model : Model
        The frozen model. In bfloat16 the part's products are too (autocast); its parameters are float32 all the same.
    out : path, optional
        Folder for ``<name>.safetensors``, its card ``<name>.json`` and, while training, ``<name>.checkpoint``; by
        default one for this model in ``trained`` of the user's cache folder.
    data : TrainingData, path or DataSettings, optional
        By default :meth:`workbench.training.Recipe.texts`: what the model writes, as the recipe wants it, or text of
        the recipe's own.
    resume : bool
        Go on from the checkpoint in ``out``; the result is the same as without the interruption.
    seed : int
    checkpoint_every, evaluations : int
        Steps between checkpoints, and how often the held-out loss is looked at on the way.
    optimiser : {"adamw", "adamw8bit"}
        AdamW, or the same with its states in 8 bits, of the library bitsandbytes, for a quarter of their memory.
    progress : callable, optional
        ``progress(step, steps, message)`` after every step.
    cancel : Event, optional
        Once set, the training writes a checkpoint and ends.
    **settings
        Of the recipe.

    Returns
    -------
    dict or None
        The card, and where the artefact is as ``path``; None if it was cancelled.

    Raises
    ------
    SettingError
        If there is no such recipe, setting or optimiser, or nothing to resume.
    NumericalError
        If the loss is no number; the last checkpoint stays.
    """
    recipe = build(RECIPES[name], settings)
    check(optimiser)
    place = Path(out) if out is not None else cache_folder() / "trained" / folder_name(model)
    place.mkdir(parents=True, exist_ok=True)
    if data is None:
        data = recipe.texts(model, progress, cancel)
    elif isinstance(data, DataSettings):
        data = training_data(model, data, progress, cancel)
    elif not isinstance(data, TrainingData):
        data = TrainingData.read(Path(data))
    training = Training(recipe, model, data, seed, evaluations, progress, optimiser)
    file = place / f"{name}.checkpoint"
    if resume:
        training.restore(file)
    while training.step < recipe.steps:
        if cancel is not None and cancel.is_set():
            training.checkpoint(file)
            return None
        loss = training.advance()
        if progress is not None:
            progress(training.step, recipe.steps, f"{name}: loss {loss:.4f}")
        if training.step % checkpoint_every == 0 and training.step < recipe.steps:
            training.checkpoint(file)
    card = {**training.finish(place), "path": str(place / f"{name}.safetensors")}
    file.unlink(missing_ok=True)
    return card


def folder_name(model: Model) -> str:
    """A folder's name for what is trained for a model: of two hubs' or folders' models of one name, not the same."""
    if model.revision == "local":
        return file_name(str(Path(model.name).resolve()), Path(model.name).name)
    return file_name(model.name)
