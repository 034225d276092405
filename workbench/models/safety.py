"""What is checked before a model's files are opened: nothing in them may run code or reach outside their folder.

The rules: weights come as safetensors or GGUF and their structure is sound; no configuration asks for code, or for more
memory than the weights explain; no name and no link leads out of the folder; a manifest, where there is one, is kept.
The checks read; they load and run nothing.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from workbench.errors import CorruptModel, ModelError, UnsafeModel, UnsupportedModel
from workbench.models.manifest import MANIFEST, SETTINGS_LIMIT, check_manifest, check_size, plain_name, read_json
from workbench.models.promises import check_promises, entries, gguf_sizes
from workbench.models.weight_files import Contents, read_gguf, read_safetensors

PICKLES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz", ".h5", ".msgpack"}

_RUNS_CODE = {"auto_map", "trust_remote_code", "custom_pipelines", "custom_generate"}
_KERNELS = {"attn_implementation", "_attn_implementation", "experts_implementation", "_experts_implementation"}
# A vocabulary may hold any word as a key, so these files are not searched for keys; nothing in them names code.
_VOCABULARIES = {"tokenizer.json", "vocab.json", "added_tokens.json", MANIFEST}
_SHARD = re.compile(r"-\d+-of-\d+\.safetensors$")
_RANKED = re.compile(r"shard-\d+-model-\d+-of-\d+\.safetensors$")
# What transformers looks for beside a GGUF file.
_CONFIGS = {"config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json"}
_CONFIGS |= {"adapter_config.json", "processor_config.json", "preprocessor_config.json"}
_READ_WHOLE = ("*.model", "*.txt", "*.jinja", "*.tiktoken")


def check_folder(path: str | Path, full: bool = False) -> list[Path]:
    """Check a model's folder, or one GGUF file, before it is loaded.

    Parameters
    ----------
    path : path
        A folder with safetensors or exactly one GGUF file, or a GGUF file.
    full : bool
        Hash every file that the manifest names, even those whose size and time of change are as recorded.

    Returns
    -------
    list of Path
        The weight files that are opened when the model is loaded.

    Raises
    ------
    UnsafeModel
        If loading would run code (pickles, ``auto_map``, ``trust_remote_code``, kernels from a hub) or leave the
        folder (links, ``../`` in a weight index).
    CorruptModel
        If a weight file, a configuration or a checksum is wrong, or a size is out of proportion.
    UnsupportedModel
        If the weights are in a format that is not read.
    ModelError
        If there is nothing to load, or it is not clear what.
    """
    path = Path(path)
    if path.is_file():
        if path.suffix.lower() != ".gguf":
            raise _wrong_file(path)
        _check_configs(entry for entry in path.parent.glob("*.json") if entry.name in _CONFIGS)
        contents = read_gguf(path)
        check_promises(gguf_sizes(contents.settings), [contents], path.name)
        return [path]
    if not path.is_dir():
        raise ModelError(f"There is no model at {path}: it is neither a folder nor a GGUF file.")
    weights = sorted(path.glob("*.safetensors"))
    single = [] if weights else sorted(path.glob("*.gguf"))
    if not weights and not single:
        raise _nothing_to_load(path)
    if len(single) > 1:
        raise ModelError(f"{path} holds {len(single)} GGUF files; name the one to load, for example {single[0]}.")
    _check_links(path)
    for pattern in _READ_WHOLE:
        for file in path.glob(pattern):
            check_size(file)
    _check_configs(path.glob("*.json"))
    check_manifest(path, full)
    if single:
        contents = read_gguf(single[0])
        check_promises(gguf_sizes(contents.settings), [contents], single[0].name)
        return single
    read = {file.name: read_safetensors(file) for file in weights}
    for index in path.glob("*.index.json"):
        _check_index(index, read)
    weights = _opened(path, weights)
    if (path / "config.json").is_file():
        check_promises(read_json(path / "config.json"), [read[file.name] for file in weights], path.name)
    return weights


def _opened(folder: Path, weights: list[Path]) -> list[Path]:
    """Of the safetensors files those that transformers opens: the single one, else all that the index names."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    for file in weights:
        if _RANKED.match(file.name):
            raise UnsupportedModel(f"{file.name} is one process's part of a distributed checkpoint: merge them first.")
    if single in weights:
        return [single]
    if not index.is_file():
        raise CorruptModel(
            f"{folder} has neither model.safetensors nor {index.name}, which says what lies in which file."
        )
    named = set(read_json(index)["weight_map"].values())
    for file in weights:
        if file.name not in named and _SHARD.search(file.name):
            raise CorruptModel(f"{file.name} is not named in {index.name}: part of the weights would be left out.")
    return [file for file in weights if file.name in named]


def _check_links(folder: Path) -> None:
    """Refuse links that leave the folder and entries that are no plain file; a hub snapshot may link to its blobs."""
    root = folder.resolve()
    home = root
    if root.parent.name == "snapshots" and root.parent.parent.name.startswith("models--"):
        home = root.parent.parent
    for place, folders, files in os.walk(root, followlinks=False):
        for entry in (Path(place) / name for name in [*folders, *files]):
            try:
                target = entry.resolve(strict=True)
            except (OSError, RuntimeError):  # which of the two a loop raises is a matter of the Python version
                raise CorruptModel(f"{entry.relative_to(root)} is a dead link or a loop of links.") from None
            if not target.is_relative_to(home):
                raise UnsafeModel(f"{entry.relative_to(root)} is a link that leads out of its folder. It was refused.")
            if not (target.is_dir() or stat.S_ISREG(target.stat().st_mode)):
                raise CorruptModel(f"{entry.relative_to(root)} is no plain file.")


def _check_configs(files: Iterator[Path]) -> None:
    for file in files:
        check_size(file)
        if file.name == "adapter_config.json":
            raise UnsafeModel("adapter_config.json would load weights from elsewhere: merge the adapter first.")
        if file.name in _VOCABULARIES or file.name.endswith(".index.json"):
            continue
        for key, value in entries(read_json(file, anything=True, limit=SETTINGS_LIMIT)):
            if key in _RUNS_CODE:
                raise UnsafeModel(f"{file.name} has '{key}': this model asks to run code of its own. It was refused.")
            if key in _KERNELS and any("/" in str(part) or ":" in str(part) for part in _leaves(value)):
                raise UnsafeModel(f"{file.name} asks for code from a hub ('{key}': {value!r}). It was refused.")
            if key == "transformers_weights":
                raise UnsafeModel(f"{file.name} names a weight file of its own ('{key}'). It was refused.")


def _leaves(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else [value]


def _check_index(index: Path, read: dict[str, Contents]) -> None:
    """Refuse an index whose shards lie elsewhere, are missing, or lack the tensors it promises."""
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict):
        raise CorruptModel(f"{index.name} has no table of weights.")
    if not index.name.endswith(".safetensors.index.json"):
        return  # an index of pickles, which nothing opens where safetensors are
    for tensor, shard in shards.items():
        if plain_name(shard, index.name) not in read:
            raise CorruptModel(f"{index.name} names {shard}, which is missing.")
        if tensor not in read[shard].names:
            raise CorruptModel(f"{index.name} looks for {tensor} in {shard}, where it is not.")


def _wrong_file(path: Path) -> ModelError:
    if path.suffix.lower() in PICKLES:
        return UnsafeModel(f"{path.name} is a pickle; opening it could run any code. Convert it to safetensors.")
    return ModelError(f"{path.name} is not a GGUF file. For safetensors, name the folder that holds them.")


def _nothing_to_load(folder: Path) -> ModelError:
    pickles = sorted(file.name for file in folder.iterdir() if file.suffix.lower() in PICKLES)
    if pickles:
        return UnsafeModel(
            f"{folder} offers its weights only as pickles ({', '.join(pickles[:3])}); opening them could run any code. "
            "Convert them to safetensors."
        )
    return ModelError(f"{folder} holds neither safetensors nor a GGUF file.")


def download(name: str, revision: str = "main") -> Path:
    """Take a model from the Hugging Face hub into the hub's own cache and check it.

    Only weights in safetensors (or one GGUF file), JSON and tokenizer files are taken; pickles and Python never are.
    Without a network, the copy taken last is used.

    Parameters
    ----------
    name : str
        ``owner/model``, or ``owner/model:file.gguf`` where a repository offers several GGUF files.
    revision : str
        A branch, tag or commit.

    Returns
    -------
    Path
        A folder, or a GGUF file, that has passed `check_folder`.

    Raises
    ------
    ModelError
        If the model does not exist, may not be read, or cannot be reached; its subclasses as in `check_folder`.
    """
    from huggingface_hub import HfApi, errors, snapshot_download

    repository, _, chosen = name.partition(":")
    try:
        info = HfApi(endpoint=os.environ.get("HF_ENDPOINT")).model_info(repository, revision=revision)
        wanted = _wanted(name, [file.rfilename for file in info.siblings or []], chosen)
        folder = snapshot_download(
            repository, revision=revision, allow_patterns=wanted, endpoint=os.environ.get("HF_ENDPOINT")
        )
    except ModelError:
        raise
    except errors.HFValidationError:
        raise ModelError(f"'{name[:100]}' is no bundled model, no existing path and no Hugging Face id.") from None
    except errors.GatedRepoError:
        raise ModelError(f"{repository} asks you to accept its terms on huggingface.co and to log in first.") from None
    except errors.RevisionNotFoundError:
        raise ModelError(f"{repository} has no revision '{revision}'.") from None
    except errors.RepositoryNotFoundError:
        raise ModelError(f"There is no public model '{repository}' on the hub, and no folder of that name.") from None
    except Exception as error:  # the hub's network layer raises errors of several libraries
        folder, wanted = _downloaded_before(repository, revision, error), [chosen]
    target = Path(folder) / wanted[-1] if wanted[-1].endswith(".gguf") else Path(folder)
    check_folder(target)
    return target


def _wanted(name: str, files: list[str], chosen: str) -> list[str]:
    """The files of a repository to take, at its top and needed to load; a GGUF file comes last."""
    top = [file for file in files if "/" not in file]
    configs = [file for file in top if Path(file).suffix in {".json", ".model", ".txt", ".jinja"}]
    tensors = [file for file in top if file.endswith(".safetensors")]
    single = [file for file in top if file.endswith(".gguf")]
    if chosen and chosen not in single:
        raise ModelError(f"There is no file {chosen} in {name.partition(':')[0]}; GGUF files: {single or 'none'}.")
    if chosen or (single and not tensors):
        if not chosen and len(single) > 1:
            raise ModelError(f"{name} offers several GGUF files; choose one, for example '{name}:{single[0]}'.")
        return [*configs, chosen or single[0]]
    if not tensors:
        raise UnsafeModel(f"{name} offers neither safetensors nor GGUF. Pickled weights could run any code.")
    return configs + tensors


def _downloaded_before(repository: str, revision: str, error: Exception) -> str:
    from huggingface_hub import snapshot_download

    try:
        return snapshot_download(repository, revision=revision, local_files_only=True)
    except Exception:
        raise ModelError(
            f"{repository} could not be fetched ({type(error).__name__}: {str(error)[:200]}) and is not in the hub's "
            "cache. The bundled model smollm2-135m and local folders work without the hub."
        ) from error
