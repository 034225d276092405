"""Load a model: a bundled one by name, a Hugging Face id, or a local folder."""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from workbench.errors import ModelError, PromptError, SettingError
from workbench.models import bundled, safety
from workbench.models.anatomy import Anatomy
from workbench.models.device import device_named
from workbench.models.proof import prove
from workbench_kernels import arithmetic

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(eq=False)
class Model:
    """A loaded model: weights, tokenizer, and the anatomy that every step goes through.

    Attributes
    ----------
    hf : transformers.PreTrainedModel
        The transformers model underneath; it stays usable.
    tokenizer : transformers.PreTrainedTokenizerBase or None
        None for models built in memory, which take token ids only.
    anatomy : Anatomy
    name, revision : str
    proof : dict
        What was checked when it was loaded, and the largest deviation found.
    draft_vocabulary : int Tensor [small] or None
        Of a draft model with a trimmed vocabulary: the tokens, increasing, that its logits are of; None for all.
    """

    hf: Any
    tokenizer: Any
    anatomy: Anatomy
    name: str
    revision: str = ""
    proof: dict[str, float] = field(default_factory=dict)
    draft_vocabulary: Tensor | None = None

    @property
    def dtype(self) -> torch.dtype:
        return self.anatomy.dtype

    @property
    def device(self) -> torch.device:
        return self.anatomy.device

    @property
    def layers(self) -> int:
        return self.anatomy.layers

    @property
    def arithmetic(self) -> str:
        """What the sums of its passes depend on; see :func:`workbench_kernels.arithmetic.name`."""
        return arithmetic.name(self.dtype, self.device)

    @property
    def stop_tokens(self) -> tuple[int, ...]:
        """Tokens at which generation ends unless told otherwise."""
        ends = getattr(self.hf.generation_config, "eos_token_id", None)
        if ends is None:
            ends = self.hf.config.eos_token_id
        return () if ends is None else tuple(ends) if isinstance(ends, list | tuple) else (ends,)

    def encode(self, prompt: str | Sequence[int] | Tensor, start: bool = True) -> list[int]:
        """Token ids of a prompt given as text or as ids.

        Parameters
        ----------
        prompt : str or token ids
        start : bool
            Whether the text begins here, so that it gets the tokens that the tokenizer puts around a text.

        Raises
        ------
        PromptError
            If the prompt is empty, longer than the model's positions, holds an id the model does not have, or is text
            while the model has no tokenizer.
        """
        if isinstance(prompt, str):
            if self.tokenizer is None:
                raise PromptError(f"{self.name} has no tokenizer: give the prompt as token ids")
            if not prompt.strip():
                raise PromptError("the prompt is empty: give it some text")
            ids = self.tokenizer(prompt, add_special_tokens=start)["input_ids"]
        else:
            ids = prompt.flatten().tolist() if isinstance(prompt, Tensor) else [int(token) for token in prompt]
        if not ids:
            raise PromptError("the prompt is empty: give it at least one token")
        if min(ids) < 0 or max(ids) >= self.anatomy.vocabulary:
            raise PromptError(f"token ids must lie in 0 … {self.anatomy.vocabulary - 1}; got {min(ids)} … {max(ids)}")
        if len(ids) > self.anatomy.positions:
            raise PromptError(
                f"the prompt has {len(ids):,} tokens but {self.name} knows {self.anatomy.positions:,} positions: "
                "shorten the prompt"
            )
        return ids

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of token ids; ids in angle brackets for a model without a tokenizer."""
        if self.tokenizer is None:
            return "".join(f"<{token}>" for token in tokens)
        return self.tokenizer.decode(list(tokens))

    def chat(self, message: str) -> str:
        """A user message in the model's own chat format, ready to be answered; unchanged if it has none."""
        if self.tokenizer is None or not self.tokenizer.chat_template:
            return message
        turn = [{"role": "user", "content": message}]
        return self.tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)

    def shallow(self, layers: int) -> Model:
        """The same weights with fewer layers, spread evenly, first and last kept: a cheap model of the same vocabulary.

        Nothing is copied. The result has no ``hf`` of its own and its quality is what it is: most models fall apart
        quickly without training for it.

        Parameters
        ----------
        layers : int
            From 2 to ``self.layers``.
        """
        if not 2 <= layers <= self.layers:
            raise SettingError(f"{self.name} can be cut to 2 … {self.layers} layers, not {layers}")
        kept = evenly(self.layers, layers)
        anatomy = copy.copy(self.anatomy)
        anatomy.blocks = []
        for place, layer in enumerate(kept):
            block = copy.copy(self.anatomy.blocks[layer])
            block.index = place
            anatomy.blocks.append(block)
        return Model(self.hf, self.tokenizer, anatomy, f"{self.name}/{layers}", self.revision, {})


def evenly(total: int, kept: int) -> list[int]:
    """``kept`` of ``total`` layers spread evenly with first and last among them, in order."""
    if kept == 1:
        return [0]
    return sorted({round(i * (total - 1) / (kept - 1)) for i in range(kept)})


def load(name: str, dtype: str | torch.dtype = "float32", device: str | None = None, revision: str = "main") -> Model:
    """Load a model and prove its anatomy.

    Parameters
    ----------
    name : str
        A bundled model (``smollm2-135m``, ``gemma3-270m``), a Hugging Face id, or a local folder or GGUF file.
        ``name/layers`` (of a bundled model or a folder) is :meth:`Model.shallow` of it.
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
    from transformers import AutoModelForCausalLM, AutoTokenizer

    dtype = dtype_named(dtype)
    device = str(device_named(device or ("cuda" if torch.cuda.is_available() else "cpu")))
    cut = re.fullmatch(r"(.+)/([0-9]{1,9})", name)
    if cut and (cut[1] in bundled.BUNDLED or (Path(cut[1]).is_dir() and not Path(name).exists())):
        return load(cut[1], dtype, device, revision).shallow(int(cut[2]))
    if name in bundled.BUNDLED:
        folder, revision = bundled.fetch(name), bundled.BUNDLED[name].revision
    elif Path(name).exists():
        folder, revision = Path(name), "local"
    else:
        folder = safety.download(name, revision)
    safety.check_folder(folder)
    options: dict[str, Any] = {"trust_remote_code": False}
    weights: dict[str, Any] = {"dtype": dtype, "attn_implementation": "sdpa"}
    if folder.is_file():
        folder, options["gguf_file"] = folder.parent, folder.name
    elif not any(folder.glob("*.safetensors")):
        options["gguf_file"] = next(folder.glob("*.gguf")).name
    else:
        weights["use_safetensors"] = True
    with _quiet(), _readable(name):
        hf = AutoModelForCausalLM.from_pretrained(folder, **weights, **options)
        tokenizer = AutoTokenizer.from_pretrained(folder, **options)
    return wrap(hf.to(device), tokenizer, name, revision)


def wrap(hf: Any, tokenizer: Any, name: str, revision: str = "") -> Model:
    """A :class:`Model` around a transformers model that is already in memory; its anatomy is proven first.

    Raises
    ------
    UnsupportedModel
        If the family is not in the table, or the proof fails.
    """
    hf.eval().requires_grad_(False)
    anatomy = Anatomy(hf)
    proof = prove(hf, anatomy)
    return Model(hf, tokenizer, anatomy, name, revision, proof)


def dtype_named(dtype: str | torch.dtype) -> torch.dtype:
    """The torch dtype of a name, or itself."""
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in _DTYPES:
        raise SettingError(f"dtype {dtype!r} is not known: choose one of {', '.join(_DTYPES)}")
    return _DTYPES[dtype]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
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
def _readable(name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(f"{name} could not be loaded: {error}") from error
