"""A draft model for a thread of its own, on a device of its own."""

from __future__ import annotations

import copy
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from workbench.models import Model
from workbench.models.device import device_named
from workbench.models.multiply import Multiply


def placed(model: Model, device: str | torch.device | None = None) -> Model:
    """A model that may run beside others: it shares no state that a forward changes.

    Parameters
    ----------
    model : Model
    device : str or torch.device, optional
        Where it is to run; weights are copied if that is elsewhere, and shared otherwise.

    Raises
    ------
    SettingError
        If there is no such device.
    """
    target = model.device if device is None else device_named(device, real=False)
    anatomy = copy.copy(model.anatomy)
    anatomy._ropes = {}
    if target == model.device:
        anatomy.blocks = [copy.copy(block) for block in anatomy.blocks]
    else:
        anatomy.multiply, anatomy.device = Multiply(model.dtype, target), target
        anatomy.blocks = [_moved(block, target) for block in anatomy.blocks]
        anatomy.final_norm = _moved(anatomy.final_norm, target)
        for name in ("_embedding", "_positions", "_rotary", "unembedding", "unembedding_bias"):
            setattr(anatomy, name, _moved(getattr(anatomy, name), target))
    for block in anatomy.blocks:
        block.multiply = anatomy.multiply
    return replace(model, anatomy=anatomy, draft_vocabulary=_moved(model.draft_vocabulary, target))


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.detach().to(device)
    if isinstance(value, nn.Module) and any(True for _ in (*value.parameters(), *value.buffers())):
        return copy.deepcopy(value).to(device)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{each.name: _moved(getattr(value, each.name), device) for each in fields(value)})
    return value
