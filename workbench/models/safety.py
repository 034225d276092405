"""What is checked before a model's files are opened: nothing in them may run code or reach outside their folder.

The rules: weights come as safetensors or GGUF and their structure is sound; no configuration asks for code; no name and
no link leads out of the folder; a manifest, where there is one, is kept. The checks read; they load and run nothing.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from workbench.errors import CorruptModel, ModelError, UnsafeModel
from workbench.models.manifest import MANIFEST, check_manifest, plain_name, read_json
from workbench.models.weight_files import Contents, read_gguf, read_safetensors

PICKLES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz", ".h5", ".msgpack"}

_RUNS_CODE = {"auto_map", "trust_remote_code", "custom_pipelines", "custom_generate"}
_KERNELS = {"attn_implementation", "_attn_implementation", "experts_implementation", "_experts_implementation"}
# A vocabulary may hold any word as a key, so these files are not searched for keys; nothing in them names code.
_VOCABULARIES = {"tokenizer.json", "vocab.json", "added_tokens.json", MANIFEST}
# What transformers looks for beside a GGUF file.
_CONFIGS = {"config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json"}
_CONFIGS |= {"adapter_config.json", "processor_config.json", "preprocessor_config.json"}


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
        The weight files that may be opened.

    Raises
    ------
    UnsafeModel
        If loading would run code (pickles, ``auto_map``, ``trust_remote_code``, kernels from a hub) or leave the
        folder (links, ``../`` in a weight index).
    CorruptModel
        If a weight file, a configuration or a checksum is wrong.
    ModelError
        If there is nothing to load, or it is not clear what.
    """
    path = Path(path)
    if path.is_file():
        if path.suffix.lower() != ".gguf":
            raise _wrong_file(path)
        _check_configs(entry for entry in path.parent.glob("*.json") if entry.name in _CONFIGS)
        contents = read_gguf(path)
        _check_promises(_gguf_sizes(contents.settings), [contents], path.name)
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
    _check_configs(path.glob("*.json"))
    check_manifest(path, full)
    if single:
        contents = read_gguf(single[0])
        _check_promises(_gguf_sizes(contents.settings), [contents], single[0].name)
        return single
    read = {file.name: read_safetensors(file) for file in weights}
    for index in path.glob("*.index.json"):
        _check_index(index, read)
    if (path / "config.json").is_file():
        _check_promises(read_json(path / "config.json"), list(read.values()), path.name)
    return weights


def _check_links(folder: Path) -> None:
    """Refuse links that leave the folder and entries that are no plain file; a hub snapshot may link to its blobs."""
    root = folder.resolve()
    home = root
    if root.parent.name == "snapshots" and root.parent.parent.name.startswith("models--"):
        home = root.parent.parent
    for place, folders, files in os.walk(root, followlinks=False):
        for entry in (Path(place) / name for name in [*folders, *files]):
            target = entry.resolve()
            if not target.is_relative_to(home):
                raise UnsafeModel(f"{entry.relative_to(root)} is a link that leads out of its folder. It was refused.")
            if not target.exists() or not (target.is_dir() or stat.S_ISREG(target.stat().st_mode)):
                raise CorruptModel(f"{entry.relative_to(root)} is a dead link or no plain file.")


def _check_configs(files: Iterator[Path]) -> None:
    for file in files:
        if file.name == "adapter_config.json":
            raise UnsafeModel("adapter_config.json would load weights from elsewhere: merge the adapter first.")
        if file.name in _VOCABULARIES or file.name.endswith(".index.json"):
            continue
        for key, value in _entries(read_json(file, anything=True)):
            if key in _RUNS_CODE:
                raise UnsafeModel(f"{file.name} has '{key}': this model asks to run code of its own. It was refused.")
            if key in _KERNELS and any("/" in str(part) or ":" in str(part) for part in _leaves(value)):
                raise UnsafeModel(f"{file.name} asks for code from a hub ('{key}': {value!r}). It was refused.")
            if key == "transformers_weights":
                raise UnsafeModel(f"{file.name} names a weight file of its own ('{key}'). It was refused.")


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key of nested JSON with its value."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield from value.items()
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)


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


def _check_promises(config: dict[str, Any], contents: list[Contents], name: str) -> None:
    """Refuse a configuration far larger than its weights: building it would fill the memory before an error came.

    Four bits per weight is the least that is granted.
    """
    held, tensors = 2 * sum(part.size for part in contents), sum(len(part.names) for part in contents)
    sizes = {key: value for key, value in config.items() if type(value) is int}
    width = sizes.get("hidden_size", sizes.get("n_embd", 1))
    widest = max(sizes.get(key, 0) for key in ("vocab_size", "intermediate_size", "n_inner"))
    layers = max(sizes.get(key, 0) for key in ("num_hidden_layers", "n_layer"))
    if width * widest > held or layers > tensors:
        raise CorruptModel(
            f"{name} describes a model far larger than its weights: {layers:,} layers, width {width:,}, widest matrix "
            f"{widest:,}, but {tensors:,} tensors and {held // 2:,} bytes."
        )


def _gguf_sizes(settings: dict[str, Any]) -> dict[str, Any]:
    family = settings.get("general.architecture")
    if not isinstance(family, str):
        raise CorruptModel("The GGUF file does not name its architecture.")
    names = {"vocab_size": "vocab_size", "embedding_length": "hidden_size", "block_count": "num_hidden_layers"}
    names["feed_forward_length"] = "intermediate_size"
    return {ours: settings.get(f"{family}.{theirs}") for theirs, ours in names.items()}


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
        raise ModelError(f"'{name}' is no bundled model, no existing path and no Hugging Face id.") from None
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
