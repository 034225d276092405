"""Small trained parts that travel with the workbench, and those a user trained: found, checked, loaded on demand.

An artefact is a safetensors file ``<name>.safetensors`` with a *card* beside it, ``<name>.json``: which model the part
was trained for, by which recipe and settings, on what, how long, on what machine, with what result, and the SHA-256 of
the file.
"""

from __future__ import annotations

import functools
import json
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import ArtifactError, CorruptModel
from workbench.files import at_home, is_there, replacing, save_tensors, write_atomically
from workbench.models.manifest import read_json, sha256
from workbench.models.weight_files import read_safetensors

if TYPE_CHECKING:
    from torch import Tensor, nn

    from workbench.models import Model


def folder() -> Path:
    """Where the artefacts lie that come with the workbench."""
    return Path(str(files("workbench_data").joinpath("artifacts")))


def place(name: str, weights: str = "bundled") -> Path:
    """The file that :func:`load` reads."""
    return folder() / f"{name}.safetensors" if weights == "bundled" else at_home(weights)


def load(name: str, model: Model, weights: str = "bundled") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a trained part, on the model's device and in the number format they were stored in, and its card.

    Parameters
    ----------
    name : str
        Of the recipe that trains it.
    model : Model
        The model that it is for.
    weights : str
        ``bundled`` for the artefact that comes with the workbench, else the path of a ``.safetensors`` file.

    Raises
    ------
    ArtifactError
        If there is no such artefact, or it was made by another recipe or for another model.
    CorruptModel
        If the file or its card is damaged, or it holds numbers that are not finite.
    """
    path = place(name, weights)
    about = card(path)
    made_for = about["model"]["name"]
    if about["recipe"] != name:
        raise ArtifactError(f"{path.name} holds a {about['recipe']}, not a {name}")
    if made_for != name_of(model):
        raise ArtifactError(
            f"{path.name} was trained for {made_for}, not for {name_of(model)}: train one with "
            f"workbench train {name} --model {model.name}, then name its file as weights"
        )
    now = path.stat()
    stamp = now.st_ino, now.st_ctime_ns, now.st_mtime_ns, now.st_size
    tensors, checksum = _read(path, stamp, str(model.device))
    if checksum != about["sha256"]:
        raise CorruptModel(f"{path.name} does not have the checksum on its card.")
    return dict(tensors), about


@functools.lru_cache(maxsize=8)
def _read(path: Path, stamp: tuple[int, ...], device: str) -> tuple[dict[str, Tensor], str]:
    """Tensors and SHA-256 of a file of this stamp, read once: every run starts its techniques anew."""
    from safetensors.torch import load_file

    read_safetensors(path)
    tensors = load_file(path, device=device)
    for key, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.float().isfinite().all():
            raise CorruptModel(f"{path.name} holds numbers that are not finite in {key}: train it anew.")
    return tensors, sha256(path)


def card(path: Path) -> dict[str, Any]:
    """The card of an artefact, given the artefact's own path.

    Raises
    ------
    ArtifactError
        If the artefact or its card is missing.
    CorruptModel
        If the card is not one.
    """
    if path.suffix != ".safetensors":
        raise ArtifactError(f"{path} is no .safetensors file: weights are 'bundled' or the path of one")
    beside = path.with_suffix(".json")
    for file in (path, beside):
        if not (is_there(file) and file.is_file()):
            raise ArtifactError(f"there is no {file.name}: make it with workbench train {path.stem}")
    about = read_json(beside)
    named = about.get("model")
    if not (isinstance(named, dict) and isinstance(named.get("name"), str) and {"recipe", "sha256"} <= set(about)):
        raise CorruptModel(f"{beside.name} is no card of a trained part.")
    return about


def save(name: str, tensors: dict[str, Tensor], facts: dict[str, Any], where: Path) -> dict[str, Any]:
    """Write a trained part and its card into a folder, and return the card.

    Parameters
    ----------
    name : str
        Of the recipe.
    tensors : dict of str to Tensor
        Floating-point ones are stored in bfloat16, others as they are.
    facts : dict
        What the card says beside ``recipe`` and ``sha256``; its ``model`` has ``name`` and ``revision``.
    where : Path
    """
    stored = {key: rounded(tensor).cpu().contiguous() for key, tensor in tensors.items()}
    path = where / f"{name}.safetensors"
    with replacing(path) as made:
        save_tensors(made, stored)
        about = {"recipe": name, **facts, "bytes": made.stat().st_size, "sha256": sha256(made)}
        write_atomically(path.with_suffix(".json"), json.dumps(about, indent=1) + "\n")
    return about


def name_of(model: Model) -> str:
    """What a card calls a model: of one in a local folder the folder's own name, never the path to it."""
    return Path(model.name).name if model.revision == "local" else model.name


def rounded(tensor: Tensor) -> Tensor:
    """A tensor as artefacts store it."""
    return tensor.detach().bfloat16() if tensor.is_floating_point() else tensor.detach()


def fit(part: nn.Module, tensors: dict[str, Tensor], name: str) -> None:
    """Load tensors into a module that has exactly these.

    Raises
    ------
    ArtifactError
        Naming the first tensor that is missing, unknown, of another shape, or of whole numbers where others are due.
    """
    own = part.state_dict()
    for key in sorted(own.keys() | tensors.keys()):
        if key not in tensors or key not in own:
            raise ArtifactError(f"the {name} {'lacks' if key not in tensors else 'has an unknown tensor'} {key}")
        if own[key].shape != tensors[key].shape:
            raise ArtifactError(
                f"the {name}'s {key} has shape {list(tensors[key].shape)} where {list(own[key].shape)} is due"
            )
        if own[key].is_floating_point() != tensors[key].is_floating_point():
            raise ArtifactError(f"the {name}'s {key} holds {tensors[key].dtype} where {own[key].dtype} is due")
    part.load_state_dict(tensors)
