"""What a file, a folder or a loaded model holds, as a short text: results are known by content, never by a name."""

from __future__ import annotations

import functools
import hashlib
import json
import weakref
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.files import at_home
from workbench.models.manifest import sha256

if TYPE_CHECKING:
    from torch import Tensor

    from workbench.models.anatomy import Anatomy
    from workbench.models.model import Model

# Files of a model's folder that decide what the model says; a read-me does not.
_MATTER = {".safetensors", ".gguf", ".json", ".jinja", ".model", ".txt"}
_THREADS = 4
_KNOWN: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()


def stamps(path: Path) -> tuple[tuple[Any, ...], ...]:
    """Name, inode, size and times of a file, or of the files of a folder that matter: equal while nothing changed."""
    return tuple(
        (str(file), (about := file.stat()).st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns)
        for file in _files(path)
    )


def of_path(path: str | Path) -> str:
    """SHA-256 of a file, or of the names and contents of the files of a folder that matter.

    Files are read once for as long as their :func:`stamps` stay as they are.
    """
    path = at_home(path).resolve()
    return _of_path(path, stamps(path))


def of_model(model: Model) -> str:
    """SHA-256 of what a loaded model computes with: every weight, its configuration, its tokenizer.

    It is taken of the weights in memory, wherever they came from, once for each model (about a second for every two
    gigabytes); :func:`forget` has it taken anew. A cut of a model has the same one; a view of it with other weights or
    blocks has one of its own.
    """
    known = _KNOWN.get(model.hf)
    if known is None:
        tensors = sorted(model.hf.state_dict().items())
        with ThreadPoolExecutor(_THREADS) as pool:
            digests = list(pool.map(lambda each: of_tensor(each[1]), tensors))
        config, generation = model.hf.config, getattr(model.hf, "generation_config", None)
        parts = [
            _json(config.to_dict()),
            _json({} if generation is None else generation.to_dict()),
            *(f"{name} {digest}" for (name, _), digest in zip(tensors, digests)),
        ]
        known = _KNOWN[model.hf] = _joined(parts)
    own = [_of_view(model.anatomy)] if model.changed else []
    return _joined([known, _of_tokenizer(model.tokenizer), *own])


def of_tensor(tensor: Tensor) -> str:
    """SHA-256 of a tensor's dtype, shape and values."""
    import torch

    held = tensor.detach().contiguous().cpu()
    digest = hashlib.sha256(f"{held.dtype} {list(held.shape)}".encode())
    digest.update(held.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def forget(model: Model) -> None:
    """Have the next :func:`of_model` read the weights again, which may have been changed in memory."""
    _KNOWN.pop(model.hf, None)
    _KNOWN.pop(model.anatomy, None)


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    return sorted(file for file in path.iterdir() if file.suffix in _MATTER and file.is_file())


@functools.lru_cache(maxsize=64)
def _of_path(path: Path, stamp: tuple[tuple[Any, ...], ...]) -> str:
    if not path.is_dir():
        return sha256(path)
    return _joined(f"{Path(name).name} {sha256(Path(name))}" for name, *_ in stamp)


def _of_view(anatomy: Anatomy) -> str:
    """SHA-256 of the blocks, the final norm and the head of a view, whatever they are made of."""
    from workbench.models.variant import leaves, parts

    known = _KNOWN.get(anatomy)
    if known is None:
        lines = (f"{name} {_of_leaf(value)}" for name, value in leaves(parts(anatomy)))
        known = _KNOWN[anatomy] = _joined(lines)
    return known


def _of_leaf(value: Any) -> str:
    if isinstance(value, str | int | float | type(None)):
        return repr(value)
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    if hasattr(value, "state_dict"):
        return _joined(f"{name} {of_tensor(each)}" for name, each in sorted(value.state_dict().items()))
    return of_tensor(value) if hasattr(value, "untyped_storage") else type(value).__qualname__


def _of_tokenizer(tokenizer: Any) -> str:
    if not hasattr(tokenizer, "get_vocab"):
        return f"no tokenizer: {type(tokenizer).__qualname__}"
    try:
        known = _KNOWN.get(tokenizer)
    except TypeError:
        return _joined([_json(tokenizer.get_vocab())])  # one that cannot be kept track of
    if known is None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        text = _json(tokenizer.get_vocab()) if backend is None else backend.to_str()
        known = _KNOWN[tokenizer] = _joined([text, str(getattr(tokenizer, "chat_template", None))])
    return known


def _json(content: dict[str, Any]) -> str:
    # Where a model came from is no part of what it is.
    kept = {key: value for key, value in content.items() if key not in ("_name_or_path", "transformers_version")}
    return json.dumps(kept, sort_keys=True, default=str)


def _joined(parts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
