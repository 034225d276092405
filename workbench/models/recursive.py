"""Models whose middle layers are one block of layers, applied several times: where each recursion begins and ends.

Such a model is a stock Llama to transformers: the block stands in it once for every recursion. What it is besides is
the table ``recursion`` of its configuration. See :mod:`workbench.parts.recursive`, which is trained, and
:class:`workbench.techniques.Recursion`, which routes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from workbench.errors import CorruptModel
from workbench.models.manifest import read_json
from workbench.models.weight_files import read_safetensors

Routing = Literal["fixed", "expert", "token"]
"""Every token runs all recursions; each recursion chooses tokens; each token chooses how many."""
Keys = Literal["recursion", "shared"]
"""Every recursion has keys and values of its own; or later ones read those of the first."""

MARKS = ("<|endoftext|>", "<|im_end|>", "<|im_start|>")
"""The first tokens of such a model's vocabulary."""

_CHAT = (
    "{% for each in messages %}<|im_start|>{{ each.role }}\n{{ each.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_LAYER = re.compile(r"layers\.(\d+)\.(.+)")


@dataclass(frozen=True)
class Layout:
    """How the layers of a model are shared ("middle-cycle"): the first and the last are its own, those between are a
    block of layers, run ``times`` times.

    Attributes
    ----------
    block : int
        Layers of the block.
    times : int
        Recursions, at least 1.
    first, last : int
        Layers before and behind them.
    """

    block: int
    times: int
    first: int = 1
    last: int = 1

    @property
    def unique(self) -> int:
        """Layers with weights of their own."""
        return self.first + self.block + self.last

    @property
    def layers(self) -> int:
        """Layers that a token goes through at most."""
        return self.first + self.block * self.times + self.last

    @property
    def behind(self) -> int:
        """The first layer behind the last recursion."""
        return self.first + self.block * self.times

    def begins(self, recursion: int) -> int:
        """The first layer of a recursion, counted from 0; of recursion ``times`` it is :attr:`behind`."""
        return self.first + self.block * recursion

    def stored(self, layer: int) -> int:
        """Which of the unique layers a layer is."""
        if layer < self.first:
            return layer
        if layer < self.behind:
            return self.first + (layer - self.first) % self.block
        return layer - self.block * (self.times - 1)

    def first_visit(self, layer: int) -> int:
        """The layer of the first recursion that has the weights of a layer of any recursion."""
        return self.first + (layer - self.first) % self.block


@dataclass(frozen=True)
class Recursive:
    """What the configuration of a recursive model says beyond a Llama's.

    Attributes
    ----------
    layout : Layout
    routing : Routing
    keys : Keys
        With which it was trained.
    router : list of list of float
        [times, width]: of each recursion what the stream is multiplied with; empty of a fixed one.
    """

    layout: Layout
    routing: Routing
    keys: Keys
    router: list[list[float]]

    def table(self) -> dict[str, Any]:
        """As the configuration holds it."""
        return {**vars(self.layout), "routing": self.routing, "keys": self.keys, "router": self.router}


def recursion_of(config: Any) -> Recursive | None:
    """What a configuration says of recursions; None of a model that has none.

    Raises
    ------
    CorruptModel
        If it does not fit the rest of the configuration.
    """
    table = getattr(config, "recursion", None)
    if table is None:
        return None
    try:
        layout = Layout(*(int(table[key]) for key in ("block", "times", "first", "last")))
        routing, keys, router = table["routing"], table["keys"], table["router"]
        shape = {(len(router), len(row)) for row in router}
        right = layout.layers == config.num_hidden_layers and min(vars(layout).values()) >= 1
        right &= routing in ("fixed", "expert", "token") and keys in ("recursion", "shared")
        right &= shape == (set() if routing == "fixed" else {(layout.times, config.hidden_size)})
        router = [[float(value) for value in row] for row in router]
    except (KeyError, TypeError, ValueError):
        right = False
    if not right:
        raise CorruptModel(
            "the table 'recursion' of the model's configuration does not fit its layers: take its files anew"
        )
    return Recursive(layout, routing, keys, router)


def unrolled(tensors: Mapping[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    """Tensors of all layers, by the names that transformers gives them, from those of the unique ones
    (``layers.0.mlp.up_proj.weight`` …); those of the block stand there once for every recursion."""
    named: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        match = _LAYER.fullmatch(name)
        if match is None:
            named[f"model.{name}"] = tensor
            continue
        for layer in range(layout.layers):
            if layout.stored(layer) == int(match[1]):
                named[f"model.layers.{layer}.{match[2]}"] = tensor
    return named


def llama_config(layers: int, vocabulary: int, width: int, neurons: int, heads: int, **more: Any) -> Any:
    """The configuration of a Llama of these sizes, for as many positions as such a small model is of use."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=neurons,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=max(1, heads // 2),
        max_position_embeddings=1024,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=MARKS.index("<|endoftext|>"),
        eos_token_id=MARKS.index("<|im_end|>"),
        pad_token_id=MARKS.index("<|endoftext|>"),
        **more,
    )


def unroll(weights: Path, folder: Path) -> None:
    """Write a trained recursive model, an artefact with its card beside it, as a folder that transformers reads: the
    block once for every recursion, the tokenizer, and what routes in the configuration.

    Raises
    ------
    CorruptModel
        If the artefact is none of such a model.
    """
    from safetensors.torch import load_file
    from tokenizers import Tokenizer
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

    read_safetensors(weights)
    tensors = {name: tensor.float() for name, tensor in load_file(weights).items()}
    card = read_json(weights.with_suffix(".json"))
    try:
        given, how = card["settings"], card["prepared"]
        layout = Layout(int(given["block"]), int(given["times"]))
        router = tensors.pop("router.weight", torch.zeros(0)).tolist()
        written = bytes(tensors.pop("tokenizer").byte().tolist()).decode()
        table = Recursive(layout, how["routing"], how["keys"], router).table()
        sizes = layout.layers, given["vocabulary"], given["width"], given["neurons"], given["heads"]
        model = LlamaForCausalLM(llama_config(*sizes, recursion=table)).eval()
        named = unrolled({name.removeprefix("llama."): tensor for name, tensor in tensors.items()}, layout)
        model.load_state_dict({**named, "lm_head.weight": named["model.embed_tokens.weight"]})
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CorruptModel(f"{weights.name} holds no recursive model, or its card is of another: {error}") from None
    recursion_of(model.config)
    first, end, begin = MARKS
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(written),
        bos_token=first,
        eos_token=end,
        pad_token=first,
        additional_special_tokens=[begin],
        model_max_length=model.config.max_position_embeddings,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = _CHAT
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
