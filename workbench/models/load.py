"""Load a model: a bundled one by name, a Hugging Face id, or a local folder."""

from __future__ import annotations

import copy
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from workbench.errors import PromptError, SettingError
from workbench.files import is_there
from workbench.models import bundled, safety
from workbench.models.anatomy import Anatomy
from workbench.models.detokenise import Detokeniser, label, pieces
from workbench.models.device import device_named
from workbench.models.families import FAMILIES
from workbench.models.generation_settings import asked_for
from workbench.models.proof import prove, untouched
from workbench.models.reading import read, readable
from workbench.shown import facts_html
from workbench.tokenizing import prompt_ids, token_ids, write_chat
from workbench_kernels import arithmetic

_log = logging.getLogger("workbench")
_CUT = re.compile(r"(.+)/([0-9]{1,9})")
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(eq=False, repr=False)
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
    notes : tuple of str
        What one should know of its files, a line each; also said when it is loaded.
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
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"<Model {self.name}: {', '.join(str(value) for value in list(self._facts().values())[:4])}>"

    def _repr_html_(self) -> str:
        return facts_html(f"Model {self.name}", self._facts())

    def _facts(self) -> dict[str, Any]:
        """What it is in short; the first four are enough for one line."""
        tokenizer = type(self.tokenizer).__name__ if self.tokenizer is not None else "none: prompts are token ids"
        return {
            "class": type(self.hf).__name__,
            "layers": f"{self.layers} layers",
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": str(self.device),
            "revision": self.revision,
            "vocabulary": self.anatomy.vocabulary,
            "positions": self.anatomy.positions,
            "tokenizer": tokenizer,
            "arithmetic": self.arithmetic,
            "proof": ", ".join(f"{name.replace('_', ' ')} {value:.2g}" for name, value in self.proof.items()),
        }

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
            Ids as a sequence, array or tensor [n] or [1, n]: one prompt.
        start : bool
            Whether the text begins here, so that it gets the tokens that the tokenizer puts around a text. A text that
            :meth:`chat` wrote, or that begins with the start token's own text (``<s>``), has them already and gets no
            second ones; ids are taken as they are.

        Raises
        ------
        PromptError
            If the prompt is empty, several prompts, longer than the model's positions, holds what is no character or an
            id that the model does not have, or is text while the model has no tokenizer.
        """
        if isinstance(prompt, str):
            if self.tokenizer is None:
                raise PromptError(f"{self.name} has no tokenizer: give the prompt as token ids")
            if not prompt.strip():
                raise PromptError("the prompt is empty: give it some text")
            ids = token_ids(self.tokenizer, prompt, start)
        else:
            ids = prompt_ids(prompt)
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
        """Text of token ids, no space in it taken for untidy; ids in angle brackets for a model without a tokenizer."""
        if self.tokenizer is None:
            return "".join(f"<{token}>" for token in tokens)
        return self.tokenizer.decode(list(tokens), clean_up_tokenization_spaces=False)

    def pieces(self, tokens: Sequence[int]) -> list[str]:
        """The text that each token of a text adds: joined, they are :meth:`decode` of all.

        A character spread over several tokens stands at the one that completes it; the others are empty.
        """
        return pieces(self.decode, tokens)

    def detokeniser(self) -> Detokeniser:
        """The same for a stream: a new text, whose ``add`` takes each token as it comes and gives what it adds."""
        return Detokeniser(self.decode)

    def label(self, token: int) -> str:
        """What one token stands for within a text: with its leading space, and ``<0xE4>`` for a part of a character."""
        return self.decode([token]) if self.tokenizer is None else label(self.tokenizer, token, self.decode)

    def chat(self, message: str) -> str:
        """A user message in the model's own chat format, ready to be answered; unchanged if it has none.

        Raises
        ------
        PromptError
            The chat template cannot write it.
        """
        if self.tokenizer is None or not self.tokenizer.chat_template:
            return message
        return write_chat(self.tokenizer, [{"role": "user", "content": message}])

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

    All tensors must be there, and no other; without tokenizer files the model takes token ids alone. What the files ask
    for and a run leaves out is said once through the logger ``workbench`` and kept as ``Model.notes``.

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
    dtype = dtype_named(dtype)
    device = str(device_named(device or ("cuda" if torch.cuda.is_available() else "cpu")))
    whole, layers = folder_and_layers(name)
    if layers is None and (cut := _CUT.fullmatch(name)) and cut[1] in bundled.BUNDLED:
        whole, layers = cut[1], int(cut[2])
    if layers is not None:
        return load(whole, dtype, device, revision).shallow(layers)
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


def folder_and_layers(name: str) -> tuple[str, int | None]:
    """A local folder and how many of its layers are wanted (``folder/4``); any other name as it is."""
    cut = _CUT.fullmatch(name)
    if cut and is_there(cut[1]) and Path(cut[1]).is_dir() and not is_there(name):
        return cut[1], int(cut[2])
    return name, None


def wrap(hf: Any, tokenizer: Any, name: str, revision: str = "") -> Model:
    """A :class:`Model` around a transformers model that is already in memory; its anatomy is proven first.

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
    expected = None if row is None else untouched(hf)  # of others the anatomy says what it needs
    anatomy = Anatomy(hf)
    proof = prove(hf, anatomy, expected)
    return Model(hf, tokenizer, anatomy, name, revision, proof)


def dtype_named(dtype: str | torch.dtype) -> torch.dtype:
    """The torch dtype of a name, or itself."""
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in _DTYPES:
        raise SettingError(f"dtype {dtype!r} is not known: choose one of {', '.join(_DTYPES)}")
    return _DTYPES[dtype]
