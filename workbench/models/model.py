"""A loaded model: what a run, a probe and a study are given."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from workbench.errors import PromptError, SettingError
from workbench.models.anatomy import Anatomy
from workbench.models.block import Block
from workbench.models.detokenise import Detokeniser, label, pieces
from workbench.models.segments import NO_IDS, has_embeddings
from workbench.models.variant import varied
from workbench.shown import facts_html
from workbench.tokenizing import prompt_ids, token_ids, write_chat
from workbench_kernels import arithmetic


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
    changed : bool
        Whether it computes with weights or blocks that are not those of ``hf``; see :meth:`variant`.
    """

    hf: Any
    tokenizer: Any
    anatomy: Anatomy
    name: str
    revision: str = ""
    proof: dict[str, float] = field(default_factory=dict)
    draft_vocabulary: Tensor | None = None
    notes: tuple[str, ...] = ()
    changed: bool = False

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
            If the prompt is empty, several prompts, longer than the model's positions, has rows that are embeddings,
            holds what is no character or an id that the model does not have, or is text while the model has no
            tokenizer.
        """
        if has_embeddings(prompt):
            raise PromptError(NO_IDS)
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
        cut = self.variant(evenly(self.layers, layers), name=f"{self.name}/{layers}")
        return dataclasses.replace(cut, notes=())

    def variant(
        self,
        blocks: Sequence[int] | None = None,
        replace: Mapping[int, Block] | None = None,
        weights: Mapping[str, Tensor] | None = None,
        draft_vocabulary: Tensor | None = None,
        device: str | torch.device | None = None,
        name: str | None = None,
    ) -> Model:
        """A view of this model with other blocks, other weights or in another place; this one stays as it is.

        What is not named is shared, and nothing is copied that stays on its device. What a forward changes is the
        view's own, so that it may run beside this model in another thread.

        Parameters
        ----------
        blocks : sequence of int, optional
            Layers it has, in that order; a layer may come twice. By default all.
        replace : mapping of int to Block, optional
            Blocks that stand in the place of others, by their place in the view: for another mixer, projection or
            expert give ``dataclasses.replace(model.anatomy.blocks[3], up=...)``.
        weights : mapping of str to Tensor, optional
            Tensors that stand in the place of others, as :func:`workbench.models.variant.named_weights` of the view
            without them names them.
        draft_vocabulary : int Tensor [small], optional
            The tokens, increasing, that its logits are of.
        device : str or torch.device, optional
            Where it runs.
        name : str, optional
            By default this model's, with the layers behind it if they were named (``tiny layers 0,2``), and ``variant``
            where blocks or weights are others.

        Returns
        -------
        Model
            Its ``hf`` is this model's, and knows nothing of the changes.

        Raises
        ------
        SettingError
            If there is no such layer, weight or device, or a weight has another shape.

        Examples
        --------
        >>> lower = model.variant(range(6), name="lower layers")                          # doctest: +SKIP
        >>> up = LowRank.of(model.anatomy.blocks[3].up, rank=64)                          # doctest: +SKIP
        >>> model.variant(replace={3: replace(model.anatomy.blocks[3], up=up)})           # doctest: +SKIP
        """
        changed = bool(replace or weights) or draft_vocabulary is not None
        taken = "" if blocks is None else f" layers {','.join(map(str, blocks))}"
        name = name or self.name + taken + " variant" * changed
        anatomy = varied(self.anatomy, blocks, replace, weights, draft_vocabulary, device)
        tokens = self.draft_vocabulary if draft_vocabulary is None else draft_vocabulary
        return dataclasses.replace(
            self,
            anatomy=anatomy,
            name=name,
            proof={} if changed or taken else self.proof,
            draft_vocabulary=None if tokens is None else tokens.to(anatomy.device),
            changed=self.changed or changed,
        )


def evenly(total: int, kept: int) -> list[int]:
    """``kept`` of ``total`` layers spread evenly with first and last among them, in order."""
    if kept == 1:
        return [0]
    return sorted({round(i * (total - 1) / (kept - 1)) for i in range(kept)})
