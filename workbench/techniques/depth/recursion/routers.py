"""Where the recursions of a model are, and what routes them: its own table, or random numbers over any model."""

from __future__ import annotations

from typing import Literal

import torch

from workbench.errors import SettingError
from workbench.models import Model
from workbench.models.recursive import Layout, Recursive, recursion_of


def trained(model: Model) -> Recursive:
    """Layout and routers of a recursive model.

    Raises
    ------
    SettingError
        If the model is none, or has no router.
    """
    found = recursion_of(model.hf.config)
    if found is None or found.layout.layers != model.layers:
        raise SettingError(
            f"{model.name} is no recursive model: load recursion-expert, recursion-shared or recursion-token, or "
            "set router=expert or router=token for untrained routers over any model"
        )
    if found.routing == "fixed":
        raise SettingError(f"all tokens of {model.name} run all its recursions: it has no router; set router=none")
    return found


def untrained(model: Model, routing: Literal["expert", "token"], times: int) -> Recursive:
    """Routers of small random numbers, always the same, over the middle layers of any model.

    Raises
    ------
    SettingError
        If it has fewer than three layers.
    """
    middle = model.layers - 2
    if middle < 1:
        raise SettingError(
            f"{model.name} has {model.layers} layers, and recursions stand between the first and the last"
        )
    times = min(times, middle)
    block = middle // times
    weight = torch.randn(times, model.anatomy.width, generator=torch.Generator().manual_seed(0))
    layout = Layout(block, times, first=1 + middle - block * times)
    return Recursive(layout, routing, "recursion", (weight * model.anatomy.width**-0.5).tolist())
