"""What a configuration announces, bounded before anything believes it.

A configuration of a few bytes can ask for any amount of memory: a table of labels, a list with an entry per layer, a
matrix of a billion columns. Its numbers are held against the headers of the weight files, which cannot be larger than
the files are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from workbench.errors import CorruptModel, UnsupportedModel
from workbench.models.weight_files import Contents

LAYERS_LIMIT = 2_000
LABELS_LIMIT = 10_000  # transformers makes a name for each
_LAYERS = ("num_hidden_layers", "n_layer", "num_layers")
_WIDEST = (
    "vocab_size", "intermediate_size", "n_inner", "ffn_dim", "head_dim", "num_attention_heads", "num_local_experts",
    "num_experts", "moe_intermediate_size", "n_positions",
)  # fmt: skip


def check_promises(config: dict[str, Any], contents: list[Contents], name: str) -> None:
    """Refuse a configuration that asks for number formats the workbench has not, or for far more than the files hold.

    Four bits per weight is the least that is granted. What passes may be built without memory (on torch's ``meta``
    device), and is counted there by `workbench.models.reading`.

    Raises
    ------
    UnsupportedModel
        If the weights are quantised otherwise than in a GGUF file.
    CorruptModel
        If a size is out of proportion; the message names it.
    """
    held, tensors = 2 * sum(part.size for part in contents), sum(len(part.names) for part in contents)
    for key, value in entries(config):
        if key in ("quantization_config", "compression_config") and value:
            raise UnsupportedModel(f"{name} is quantised with {_method(value)}; {QUANTISED}")
        if type(value) not in (int, float):
            continue
        if key in _LAYERS and value > min(tensors, LAYERS_LIMIT):
            raise far_larger(name, f"{key} is {value:,}, the files hold {tensors:,} tensors")
        if key == "num_labels" and value > LABELS_LIMIT:
            raise far_larger(name, f"{key} is {value:,}")
    sizes = {key: value for key, value in config.items() if type(value) in (int, float)}
    width = sizes.get("hidden_size", sizes.get("n_embd", 1))
    for key in ("hidden_size", "n_embd", *_WIDEST):
        if (1 if key in ("hidden_size", "n_embd") else width) * sizes.get(key, 0) > held:
            raise far_larger(name, f"{key} is {sizes[key]:,}, the files hold {held // 2:,} bytes")


QUANTISED = "safetensors of plain numbers and GGUF files are read: take one of these, or convert it with its own tool"


def entries(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key of nested JSON with its value."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield from value.items()
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)


def gguf_sizes(settings: dict[str, Any]) -> dict[str, Any]:
    """The sizes in a GGUF file's metadata, under the names of a configuration."""
    family = settings.get("general.architecture")
    if not isinstance(family, str):
        raise CorruptModel("The GGUF file does not name its architecture.")
    names = {"vocab_size": "vocab_size", "embedding_length": "hidden_size", "block_count": "num_hidden_layers"}
    names |= {"feed_forward_length": "intermediate_size", "attention.key_length": "head_dim"}
    names |= {"expert_count": "num_experts", "attention.head_count": "num_attention_heads"}
    return {ours: settings.get(f"{family}.{theirs}") for theirs, ours in names.items()}


def _method(value: Any) -> str:
    return str(value.get("quant_method", "a method of its own")) if isinstance(value, dict) else "a method of its own"


def far_larger(name: str, reason: str) -> CorruptModel:
    """The error of a configuration that is out of proportion to its weights."""
    return CorruptModel(f"{name} describes a model far larger than its weights: {reason}. Correct its configuration.")
