"""A small model drafts a chain, the large one verifies it in one forward.

Paper
-----
Leviathan, Kalman, Matias, Fast Inference from Transformers via Speculative Decoding, 2022, arXiv 2211.17192; Chen et
al., Accelerating Large Language Model Decoding with Speculative Sampling, 2023, arXiv 2302.01318.

Deviates
--------
The default drafter is half of the model's own layers, evenly spread and untrained, so that it runs with any model; it
is seldom right. Name a trained model of the same vocabulary for the paper's setting.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Self

import torch
from pydantic import Field
from torch import Tensor

from workbench.engine import Decoder, Draft, Run, Sampler, Verification
from workbench.errors import SettingError
from workbench.models.companion import companion
from workbench.settings import settings
from workbench.techniques._technique import Technique, register


@register
@settings
class DraftModel(Technique):
    """Speculative decoding with a second model of the same vocabulary.

    Parameters
    ----------
    model : str
        See :func:`workbench.models.companion.companion`: ``/12`` or ``/0.5`` cuts the main model, a name loads one.
    draft : int
        Tokens drafted at once; 0 drafts nothing.
    """

    model: Annotated[str, Field(min_length=1, description="drafter: /layers, /share, or a model's name")] = "/0.5"
    draft: Annotated[int, Field(ge=0, le=32, description="tokens drafted at once")] = 4

    slots = ("draft",)
    exact = True
    paper = "Leviathan et al., 2022, arXiv 2211.17192; Chen et al., 2023, arXiv 2302.01318"

    def start(self, run: Run) -> _Drafter:
        drafter = companion(run.model, self.model)
        if drafter.anatomy.positions < len(run.prompt) + run.max_new_tokens - 1:
            raise SettingError(
                f"{drafter.name} knows {drafter.anatomy.positions:,} positions, too few to draft for "
                f"{len(run.prompt):,} prompt tokens and {run.max_new_tokens:,} new ones"
            )
        return _Drafter(Decoder(drafter, run.max_new_tokens + self.draft), run.sampler, self.draft)

    @classmethod
    def neutral(cls) -> Self:
        return cls(draft=0)

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return cls(model="/2", draft=3), cls(model="/1.0", draft=4)


class _Drafter:
    """The drafter's decoder, and what of the text it has seen."""

    def __init__(self, decoder: Decoder, sampler: Sampler, draft: int) -> None:
        self._decoder, self._sampler, self._draft = decoder, sampler, draft
        self._seen: list[int] = []
        self._sure = 0

    def propose(self, tokens: Sequence[int], limit: int) -> Draft:
        length = min(self._draft, limit)
        if length < 1:
            return Draft()
        decoder = self._decoder
        decoder.reset_counts()
        common = self._sure
        while common < min(len(self._seen), len(tokens) - 1) and self._seen[common] == tokens[common]:
            common += 1
        decoder.cache.crop_to(common)
        logits = decoder.forward(tokens[common:], prefill=common == 0)[0]
        self._sure = len(tokens)
        drafted: list[int] = []
        drawn_from: list[Tensor] = []
        while True:
            if self._sampler.greedy:
                drafted.append(int(logits.argmax()))
            else:
                drawn_from.append(self._sampler.distribution(logits))
                drafted.append(self._sampler.chance.draw(drawn_from[-1]))
            if len(drafted) == length:
                break
            logits = decoder.forward(drafted[-1:])[0]
        self._seen = [*tokens, *drafted[:-1]]
        probabilities = torch.stack(drawn_from) if drawn_from else None
        return Draft(drafted, None, probabilities, decoder.flops, decoder.bytes)

    def verified(self, verification: Verification) -> None:
        pass
