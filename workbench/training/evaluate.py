"""What a part does on texts that it is not trained on: of those held out, and of any others."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from workbench import artifacts
from workbench.models import Model
from workbench.settings import build
from workbench.training._accuracy import begin_ranks
from workbench.training._recipe import RECIPES, Recipe
from workbench.training.batches import Batches
from workbench.training.data import TrainingData


@torch.no_grad()
def evaluate(
    recipe: Recipe, model: Model, part: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]
) -> dict[str, float]:
    """Mean loss and figures over batches of (tokens, answer), every answer token weighing the same."""
    sums: dict[str, float] = {}
    weight = 0
    part.eval()
    begin_ranks(part)
    for tokens, answer in batches:
        loss, figures = recipe.loss(model, part, tokens, answer)
        count = int(answer[:, 1:].sum())
        for key, value in {"loss": float(loss), **figures}.items():
            sums[key] = sums.get(key, 0.0) + count * float(value)
        weight += count
    return {key: value / max(1, weight) for key, value in sums.items()}


def score(name: str, model: Model, data: TrainingData, weights: str = "bundled", **settings: Any) -> dict[str, float]:
    """Loss and figures of a trained part on all texts of ``data``, held out or not.

    Parameters
    ----------
    name : str
        Of the recipe.
    model : Model
    data : TrainingData
        Texts of the same model that the part was not trained on.
    weights : str
        ``bundled``, or the path of a ``.safetensors`` file.
    **settings
        Of the recipe, in place of those on the part's card.

    Raises
    ------
    ArtifactError
        If there is no such part for the model.
    """
    tensors, card = artifacts.load(name, model, weights)
    recipe = build(RECIPES[name], {**card["settings"], **settings})
    part = recipe.part(model)
    artifacts.fit(
        part, {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}, name
    )
    batches = Batches(data, recipe.batch, recipe.length, 0, model.device).in_order()
    with torch.random.fork_rng([model.device] if model.device.type == "cuda" else []), autocast(model):
        torch.manual_seed(0)
        return evaluate(recipe, model, part, batches)


def autocast(model: Model) -> contextlib.AbstractContextManager[Any]:
    """The part's products in bfloat16 where the model's are."""
    return torch.autocast(model.device.type, torch.bfloat16, enabled=model.dtype == torch.bfloat16)
