"""The trained part of a technique: the one shipped, a user's own, or an untrained one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from workbench import artifacts
from workbench.errors import ArtifactError
from workbench.models import Model

_NOISE = 0.02


def part_tensors(name: str, model: Model, weights: str, fresh: Callable[[], nn.Module]) -> dict[str, Tensor]:
    """Tensors of a part's ``state_dict`` on the model's device, those of numbers with a fraction in its dtype.

    Parameters
    ----------
    name : str
        Of the recipe that trains the part.
    model : Model
    weights : str
        ``bundled`` for the artefact that comes with the workbench, ``untrained`` for what ``fresh`` builds, a little
        of the same noise added every time, or the path of a ``.safetensors`` file.
    fresh : callable
        Builds an untrained part.

    Raises
    ------
    ArtifactError
        A SettingError: there is no such artefact, or it is of another recipe or for another model.
    """
    if weights == "untrained":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            part = fresh()
            with torch.no_grad():
                for parameter in part.parameters():
                    parameter += _NOISE * torch.randn_like(parameter)
        tensors = part.state_dict()
    else:
        tensors, _ = artifacts.load(name, model, weights)
    return {
        key: value.to(model.device, model.dtype if value.is_floating_point() else None)
        for key, value in tensors.items()
    }


def sizes(tensors: dict[str, Tensor], key: str, dims: int) -> tuple[int, ...]:
    """Shape of one tensor of a part, of which the part is built.

    Raises
    ------
    ArtifactError
        If it is missing, is empty or has another number of dimensions.
    """
    if key not in tensors or tensors[key].dim() != dims or not tensors[key].numel():
        raise ArtifactError(f"the file is no such part: it has no tensor {key} of {dims} dimensions with numbers in it")
    return tuple(tensors[key].shape)
