"""The trained part of a technique: the one shipped, a user's own, or an untrained one."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from workbench import artifacts
from workbench.errors import ArtifactError
from workbench.models import Model
from workbench.models.multiply import Multiply
from workbench.models.projection import Projection

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


def check_fit(name: str, model: Model, due: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Refuse a part whose tensors have not the names, shapes and kinds of numbers of those that fit the model.

    Raises
    ------
    ArtifactError
    """
    kinds = [{key: (value.shape, value.is_floating_point()) for key, value in each.items()} for each in (due, found)]
    if kinds[0] != kinds[1]:
        raise ArtifactError(f"the {name} does not fit {model.name}: it is of other layers or of other sizes")


def check_frequent(who: str, model: Model, frequent: Tensor) -> None:
    """Refuse most frequent tokens [tokens] that the model does not have, or of which one comes twice.

    Raises
    ------
    ArtifactError
        Naming ``who`` lists them.
    """
    if int(frequent.min()) < 0 or int(frequent.max()) >= model.anatomy.vocabulary:
        raise ArtifactError(f"{who} names tokens that {model.name} does not have")
    if len(frequent.unique()) < len(frequent):
        raise ArtifactError(f"{who} names a token twice among the most frequent")


def linear(tensors: Mapping[str, Tensor], key: str, multiply: Multiply) -> Projection:
    """The linear map of a part that was trained as ``nn.Linear`` under a name, multiplied as the model's own are."""
    return Projection(tensors[f"{key}.weight"], tensors[f"{key}.bias"], multiply)
