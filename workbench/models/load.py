"""Load a model: a bundled one by name, a Hugging Face id, or a local folder."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from workbench.errors import SettingError
from workbench.files import is_there
from workbench.models import built, bundled, safety, split
from workbench.models.anatomy import Anatomy
from workbench.models.device import device_named
from workbench.models.families import FAMILIES
from workbench.models.generation_settings import asked_for
from workbench.models.model import Model
from workbench.models.reading import read, readable
from workbench.models.verification import untouched, verify

_log = logging.getLogger("workbench")
_CUT = re.compile(r"(.+)/([0-9]{1,9})")
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load(name: str, dtype: str | torch.dtype = "float32", device: str | None = None, revision: str = "main") -> Model:
    """Load a model and prove its anatomy.

    All tensors must be there, and no other; without tokenizer files the model takes token ids alone. What the files ask
    for and a run leaves out is said once through the logger ``workbench`` and kept as ``Model.notes``.

    Parameters
    ----------
    name : str
        A bundled model (``smollm2-135m``, ``gemma3-270m``, ``recursion-expert``, …), one that is built of a bundled one
        (``smollm2-moe``), a Hugging Face id, or a local folder or GGUF file. ``name/layers`` (of all but an id) is
        :meth:`Model.shallow` of it.
    dtype : {"float32", "bfloat16", "float16"} or torch.dtype
    device : str, optional
        By default a GPU if there is one.
    revision : str
        Of a Hugging Face id.

    Raises
    ------
    ModelError
        If the model cannot be found or read; its subclasses tell unsafe, unsupported and corrupt files apart.
    """
    dtype = dtype_named(dtype)
    device = str(device_named(device or ("cuda" if torch.cuda.is_available() else "cpu")))
    whole, layers = folder_and_layers(name)
    if layers is None and (cut := _CUT.fullmatch(name)) and cut[1] in built.NAMES:
        whole, layers = cut[1], int(cut[2])
    if layers is not None:
        return load(whole, dtype, device, revision).shallow(layers)
    if name in built.BUILT:
        return _built(name, load(built.BUILT[name].base, dtype, device))
    if name in bundled.BUNDLED:
        folder, revision = bundled.fetch(name), bundled.BUNDLED[name].revision
    elif is_there(name):
        folder, revision = Path(name), "local"
    else:
        folder = safety.download(name, revision)
    hf, tokenizer, notes = read(name, safety.check_folder(folder), dtype)
    with readable(name):
        model = wrap(hf.to(device), tokenizer, name, revision)
    model.notes = (*notes, *asked_for(hf.generation_config))
    for note in model.notes:
        _log.warning("%s: %s", name, note)
    return model


def _built(name: str, base: Model) -> Model:
    """A model that is built of another. Its proof is that with all experts on it gives the logits of the other."""
    hf, chosen = built.build(name, base)
    model = wrap(hf, base.tokenizer, name, built.BUILT[name].revision, untouched(base.hf))
    split.choose(model, chosen)
    model.notes = base.notes
    return model


def folder_and_layers(name: str) -> tuple[str, int | None]:
    """A local folder and how many of its layers are wanted (``folder/4``); any other name as it is."""
    cut = _CUT.fullmatch(name)
    if cut and is_there(cut[1]) and Path(cut[1]).is_dir() and not is_there(name):
        return cut[1], int(cut[2])
    return name, None


def wrap(
    hf: Any, tokenizer: Any, name: str, revision: str = "", expected: tuple[Tensor, Tensor] | None = None
) -> Model:
    """A :class:`Model` around a transformers model that is already in memory; its anatomy is proven first, to give what
    the model itself gives, or the logits ``expected`` of some tokens.

    Raises
    ------
    UnsupportedModel
        If the family is not in the table, or the proof fails.
    """
    hf.eval().requires_grad_(False)
    row = FAMILIES.get(hf.config.model_type)
    capped = row is not None and row.attention_softcap and getattr(hf.config, row.attention_softcap)
    if row is not None and (capped or row.sinks):
        # Torch's fused attention knows neither soft caps nor sinks.
        hf.set_attn_implementation("eager")
    if expected is None and row is not None:  # of others the anatomy says what it needs
        expected = untouched(hf)
    anatomy = Anatomy(hf)
    proof = verify(hf, anatomy, expected)
    return Model(hf, tokenizer, anatomy, name, revision, proof)


def dtype_named(dtype: str | torch.dtype) -> torch.dtype:
    """The torch dtype of a name, or itself."""
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in _DTYPES:
        raise SettingError(f"dtype {dtype!r} is not known: choose one of {', '.join(_DTYPES)}")
    return _DTYPES[dtype]
