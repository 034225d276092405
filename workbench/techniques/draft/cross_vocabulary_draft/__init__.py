"""A drafter with another tokenizer, its words cut into the model's own tokens.

Paper
-----
Timor et al., Accelerating LLM Inference with Lossless Speculative Decoding Algorithms for Heterogeneous Vocabularies,
2025, arXiv 2502.05202 (string-level exact match).

Formula
-------
A draft token is right where it equals the model's own choice: with s the text that the drafter wrote, the draft is what
encode(tail + s) has beyond encode(tail). Its chance is the product of the chances of the drafter's tokens that it
needs.

Deviates
--------
The drafter says its most probable tokens; a draft counts as chosen without chance, so that sampling stays exact
whatever the drafter thinks. Only the tail of the text is decoded and encoded again. Special tokens, a chat's turns
among them, have no text that the other tokenizer would know, and are left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from workbench.engine import Draft, Run
from workbench.errors import SettingError
from workbench.models.second_model import load_beside as _loaded
from workbench.settings import outside, settings
from workbench.techniques._technique import register
from workbench.techniques.draft._drafter import Drafter, DraftTechnique
from workbench.techniques.draft._model_drafter import ModelDrafter
from workbench.techniques.draft.cross_vocabulary_draft.alignment import Alignment


@register
@settings
class CrossVocabularyDraft(DraftTechnique):
    """Speculative decoding through text, with a model of another family.

    Parameters
    ----------
    model : str
        Drafter: anything that :func:`workbench.models.load` takes, of any vocabulary.
    draft : int
        The drafter's tokens drafted at once; 0 drafts nothing.
    """

    model: Annotated[str, outside("model", "drafter: a model's name, of any vocabulary", min_length=1)] = "gemma3-270m"
    draft: Annotated[int, Field(ge=0, le=32, description="tokens of the drafter drafted at once")] = 5

    paper = "Timor et al., Lossless Speculative Decoding for Heterogeneous Vocabularies, 2025, arXiv 2502.05202"

    def drafter(self, run: Run) -> _Realigned:
        if run.model.tokenizer is None:
            raise SettingError(f"drafting across vocabularies needs tokenizers, and {run.model.name} has none")
        drafter = _loaded(self.model, run.model.dtype, str(run.model.device))
        if drafter.tokenizer is None:
            raise SettingError(f"drafting across vocabularies needs tokenizers, and {drafter.name} has none")
        alignment = Alignment(run.model.tokenizer, drafter.tokenizer)
        return _Realigned(alignment, ModelDrafter(drafter, run.max_new_tokens + self.draft), run, self.draft)


class _Realigned(Drafter):
    """The drafter's chain as text, and the text as a chain of the model's tokens."""

    def __init__(self, alignment: Alignment, drafter: ModelDrafter, run: Run, draft: int) -> None:
        self._alignment, self._drafter, self._draft = alignment, drafter, draft
        self._ends = set(drafter.model.stop_tokens)
        self._end = run.model.stop_tokens[:1]

    def propose(self, tokens: Sequence[int], limit: int) -> Draft:
        if limit < 1:
            return Draft()
        drafter = self._drafter
        text = self._alignment.to_drafter(tokens)
        # A text may have more tokens for the drafter than it has for the model.
        if not text or len(text) + self._draft > drafter.model.anatomy.positions:
            return Draft()
        drafter.reset_counts()
        logits = drafter.follow(text)
        drafted: list[int] = []
        chances: list[float] = []
        while True:
            token, chance = drafter.best(logits)
            chances.append(chance)
            if token in self._ends:
                break
            drafted.append(token)
            if len(drafted) == self._draft:
                break
            logits = drafter.extend(drafted[-1:])
        chain, confidence, used = [], [], 0
        for token, needed in self._alignment.to_main(drafted):
            chain.append(token)
            confidence.append(math.prod(chances[used:needed]))
            used = max(used, needed)
        if len(chances) > len(drafted):
            chain += self._end
            confidence += [chances[-1]] * len(self._end)
        return Draft(chain[:limit], None, None, drafter.flops, drafter.bytes, confidence[:limit] if chain else None)
