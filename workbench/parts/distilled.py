"""The small draft model trained for a main model: a few layers of its own around the main model's embedding.

What is stored is the layers, the final norm and which tokens it can draft; embedding and unembedding are the main
model's own, of the latter the rows of the draft vocabulary. See :mod:`workbench.training.draft_model`.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Mapping

from torch import Tensor

from workbench import artifacts
from workbench.errors import ArtifactError
from workbench.files import is_there
from workbench.models import Anatomy, Model
from workbench.models.fingerprint import stamps
from workbench.models.variant import named_weights

NAME = "draft_model"

_LOADED: weakref.WeakKeyDictionary[Model, dict[tuple, Model]] = weakref.WeakKeyDictionary()


def load(main: Model, weights: str = "bundled") -> Model | None:
    """The draft model of ``main``.

    Parameters
    ----------
    main : Model
    weights : str
        ``bundled`` for the one that comes with the workbench, else the path of a ``.safetensors`` file.

    Returns
    -------
    Model or None
        Its logits are of the tokens ``draft_vocabulary`` alone; it reads every token of the main model. None where the
        workbench has none for this main model. The same object at every call, which shares the main model's embedding.

    Raises
    ------
    ArtifactError
        If a file was named that is missing, of another model or of another shape.
    CorruptModel
        If the file is damaged.
    """
    known = _LOADED.setdefault(main, {})
    # A file may be written anew while the program runs.
    path = artifacts.place(NAME, weights)
    key = weights, stamps(path) if is_there(path) else ()
    if key not in known:
        try:
            tensors, _ = artifacts.load(NAME, main, weights)
        except ArtifactError:
            if weights != "bundled":
                raise
            return None
        for earlier in [each for each in known if each[0] == weights]:
            del known[earlier]
        known[key] = assemble(main, tensors)
    return known[key]


def assemble(main: Model, tensors: Mapping[str, Tensor]) -> Model:
    """A draft model from the tensors of its artefact.

    Raises
    ------
    ArtifactError
        If they do not fit the main model.
    """
    named = {name.replace("/", "."): tensor for name, tensor in tensors.items() if name != "vocabulary"}
    layers = len({match[1] for name in named if (match := re.match(r"layers\.(\d+)\.", name))})
    if not 1 <= layers <= main.layers or "vocabulary" not in tensors:
        raise ArtifactError(f"the {NAME} holds {layers} layers; {main.name} has {main.layers}")
    vocabulary = tensors["vocabulary"].long().to(main.device)
    if not len(vocabulary) or int(vocabulary.min()) < 0 or int(vocabulary.max()) >= main.anatomy.vocabulary:
        raise ArtifactError(f"the {NAME} drafts tokens that {main.name} does not have")
    due = layer_tensors(main.anatomy, layers)
    for name in sorted(due.keys() | named.keys()):
        if name not in due or name not in named or due[name].shape != named[name].shape:
            raise ArtifactError(f"the {NAME}'s {name} does not fit {main.name}")
    return draft_of(main, {name: named[name].to(due[name]) for name in due}, vocabulary)


def layer_tensors(anatomy: Anatomy, layers: int) -> dict[str, Tensor]:
    """Tensors of the first layers and of the final norm by name: ``layers.0.query_key_value.weight`` and so on."""
    kept = tuple(f"layers.{index}." for index in range(layers))
    return {name: value for name, value in named_weights(anatomy).items() if name.startswith((*kept, "final_norm."))}


def draft_of(main: Model, tensors: Mapping[str, Tensor], vocabulary: Tensor) -> Model:
    """The main model with fewer layers, other tensors in them and fewer rows to unembed.

    Parameters
    ----------
    main : Model
    tensors : mapping of str to Tensor
        As :func:`layer_tensors` names them; parameters being trained, or what was stored.
    vocabulary : int Tensor [small]
        Rows of the unembedding that stay.
    """
    layers = len({name.split(".")[1] for name in tensors if name.startswith("layers.")})
    name = f"{main.name} distilled"
    return main.variant(range(layers), weights=tensors, draft_vocabulary=vocabulary.long(), name=name)
