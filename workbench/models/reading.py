"""Read a checked folder with transformers: nothing is made that the files do not hold, and nothing is left out.

transformers fills tensors that a file lacks at random, and passes over those it has no place for. Here both are errors
that name the tensors. Tied tensors may be stored once, twice, or under either name.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from workbench.errors import CorruptModel, ModelError, OutOfMemory, UnsupportedModel, WorkbenchError, words_of
from workbench.models.families import FAMILIES, unknown_family
from workbench.models.manifest import read_json
from workbench.models.promises import QUANTISED, far_larger
from workbench.models.weight_files import Contents, read_gguf, read_safetensors

_SHOWN = 3
_VOCABULARIES = (
    "tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json",
    "sentencepiece.bpe.model", "*.tiktoken",
)  # fmt: skip
_MARKS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt")
# The scaled rotary frequencies of Llama 3 and of Phi-3; transformers takes them from no GGUF file.
_LEFT_OUT = {"rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"}


def read(name: str, files: list[Path], dtype: torch.dtype) -> tuple[Any, Any, list[str]]:
    """The transformers model and tokenizer of the weight files that `safety.check_folder` returned.

    Parameters
    ----------
    name : str
        What messages call the model.
    files : list of Path
    dtype : torch.dtype

    Returns
    -------
    model, tokenizer, notes
        The tokenizer is None where the folder has no file of one; notes are what one should know about the model.

    Raises
    ------
    CorruptModel
        If tensors are missing, left over, or of another shape than the configuration says.
    UnsupportedModel
        If the family is not in the table.
    ModelError
        If transformers cannot read a file.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    folder, notes = files[0].parent, []
    source: dict[str, Any] = {"trust_remote_code": False}
    if files[0].suffix.lower() == ".gguf":
        source["gguf_file"] = files[0].name
        contents = [read_gguf(files[0])]
    else:
        contents = [read_safetensors(file) for file in files]
    with quiet(), readable(name):
        if "gguf_file" not in source:
            _check_family(name, folder)
        config = AutoConfig.from_pretrained(folder, **source)
        if config.model_type not in FAMILIES:
            raise UnsupportedModel(f"{name}: {unknown_family(config.model_type)}")
        tokenizer = AutoTokenizer.from_pretrained(folder, **source) if has_tokenizer(folder, contents[0]) else None
        empty = _described(name, config, contents)
        if "gguf_file" in source:
            missing, left = gguf_compared(empty, contents[0])
            refuse(name, missing, left - _LEFT_OUT, [])
            notes += [f"{key} is not read from the GGUF file: rotary frequencies are unscaled" for key in sorted(left)]
        else:
            _check_numbers(name, empty, contents)
            source["use_safetensors"] = True
        try:
            hf, loading_info = AutoModelForCausalLM.from_pretrained(
                folder, config=config, dtype=dtype, ignore_mismatched_sizes=True,
                output_loading_info=True, **source,
            )  # fmt: skip
        except RuntimeError:  # several tensors of the file make one of the model, and do not fit together
            refuse(name, *_compared(empty, contents))
            raise
        if loading_info["mismatched_keys"]:  # or fit, but are too few
            refuse(name, *_compared(empty, contents))
        refuse(name, loading_info["missing_keys"], loading_info["unexpected_keys"], loading_info["mismatched_keys"])
    return hf, tokenizer, notes


def refuse(name: str, missing: Iterable[str], unexpected: Iterable[str], mismatched: Iterable[tuple]) -> None:
    """Raise `CorruptModel` if any tensor is missing, left over or of another shape; it names a few, and how many more.

    Parameters
    ----------
    mismatched : iterable of (name, shape in the file, shape in the model)
    """
    shapes = [f"{key} is {list(has)} where {list(due)} is due" for key, has, due in mismatched]
    parts = [
        f"{len(keys)} {what} ({_few(keys)})"
        for what, keys in (
            ("missing", sorted(missing)), ("left over", sorted(unexpected)), ("of another shape", sorted(shapes)),
        )
        if keys
    ]  # fmt: skip
    if parts:
        raise CorruptModel(
            f"the weights of {name} do not fit its configuration: of its tensors {', '.join(parts)}. Take its files "
            "anew, or correct the configuration."
        )


def has_tokenizer(folder: Path, contents: Contents) -> bool:
    """Whether a tokenizer lies in the folder or in its GGUF file.

    Raises
    ------
    CorruptModel
        If part of it is missing: transformers would make a tokenizer without words or without merges.
    """
    if "tokenizer.ggml.model" in contents.settings:
        return True
    files = {name for name in _VOCABULARIES if next(folder.glob(name), None)}
    if files == {"vocab.json"} and not (folder / "merges.txt").is_file():
        raise CorruptModel(
            f"{folder} has vocab.json but no merges.txt, without which texts fall apart into bytes: add it."
        )
    if files:
        return True
    left = [name for name in _MARKS if (folder / name).is_file()]
    if left and not contents.settings:
        raise CorruptModel(
            f"{folder} has {', '.join(left)} but no vocabulary (tokenizer.json, tokenizer.model or vocab.json): add "
            "it, or remove the rest to load the model without a tokenizer."
        )
    return False


def _check_family(name: str, folder: Path) -> None:
    """Refuse a family that is not in the table by name alone: its configuration may make lists of any length."""
    file = folder / "config.json"
    if not file.is_file():
        raise CorruptModel(f"{name} has no config.json, which says what its weights are of.")
    kind = read_json(file).get("model_type")
    if kind not in list(FAMILIES):
        raise UnsupportedModel(f"{name}: {unknown_family(kind)}")


def _described(name: str, config: Any, contents: list[Contents]) -> Any:
    """The model of a configuration, made without memory; refused if it is far larger than the files."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(config)
    asked = sum(tensor.numel() for tensor in empty.parameters())
    extra = sum(tensor.numel() for tensor in empty.buffers())
    held = sum(part.elements for part in contents)
    # Twice is granted, so that a layer or a bias too many is refused by its name; it costs no more than the files do.
    if max(asked, extra) > 2 * held:
        raise far_larger(name, f"{max(asked, extra):,} numbers, where its files hold {held:,}")
    return empty


def _check_numbers(name: str, empty: Any, contents: list[Contents]) -> None:
    """Refuse weights that are whole numbers: cast as they are, quantised ones would make a model of noise."""
    parameters = {key for key, _ in empty.named_parameters()}
    integers = set().union(*(part.integers for part in contents))
    if whole := sorted(key for key in integers if key in parameters or key.endswith(".weight")):
        raise CorruptModel(
            f"{name} has weights of whole numbers ({_few(whole)}), which are quantised or damaged; {QUANTISED}."
        )


def _compared(empty: Any, contents: list[Contents]) -> tuple[set[str], set[str], list[tuple]]:
    """Names a model would be stored under that the files lack, and the other way round; none if they name otherwise."""
    from transformers.core_model_loading import revert_weight_conversion

    tied = set(empty.all_tied_weights_keys)
    due = set(revert_weight_conversion(empty, empty.state_dict())) - tied
    held = set().union(*(part.names for part in contents)) - tied
    return (due - held, held - due, []) if due & held else (set(), set(), [])


def gguf_compared(empty: Any, contents: Contents) -> tuple[set[str], set[str]]:
    """Tensors that transformers' reader looks for in a GGUF file and that are not there, and those it passes over."""
    from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor, get_gguf_hf_weights_map

    kind = TENSOR_PROCESSORS.get(contents.settings["general.architecture"], TensorProcessor)
    mapped = get_gguf_hf_weights_map(empty, kind(config=empty.config.to_dict()))
    held = {
        name if name in mapped else name.removesuffix(".weight"): name for name in contents.names
    }  # experts have none
    tied = {name for name, stored in mapped.items() if stored in empty.all_tied_weights_keys}
    return mapped.keys() - held.keys() - tied, {name for key, name in held.items() if key not in mapped}


def _few(keys: list[str]) -> str:
    more = f", and {len(keys) - _SHOWN:,} more" if len(keys) > _SHOWN else ""
    return ", ".join(key[:200] for key in keys[:_SHOWN]) + more


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' progress bars and advice, which would drown this library's own output."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


@contextlib.contextmanager
def readable(name: str) -> Iterator[None]:
    """One line for whatever a library raises over a file that is not what it should be."""
    try:
        yield
    except WorkbenchError:
        raise
    except BaseException as error:
        text = words_of(error)
        if isinstance(error, MemoryError) or any(sign in text.lower() for sign in ("out of memory", "allocate memory")):
            raise OutOfMemory(
                f"there is not enough memory to load {name}: choose bfloat16 or a smaller model"
            ) from error
        raise ModelError(f"{name} could not be loaded: {text[:400]}") from error
