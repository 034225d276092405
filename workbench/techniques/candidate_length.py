"""Stop drafting when a rejection has become likely.

Paper
-----
Huang, Guo, Wang, SpecDec++: Boosting Speculative Decoding via Adaptive Candidate Lengths, 2024, arXiv 2405.19715.

Deviates
--------
The head reads the residual stream that a token is predicted from, so that it costs no forward beyond those that draft.
It is trained on the frozen distilled draft model of this workbench rather than together with the drafter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Self

import torch
from pydantic import Field

from workbench.drafting.acceptance_head import AcceptanceHead, acceptance_head
from workbench.drafting.drafter import DrafterName, ModelDrafter
from workbench.drafting.silent import Silent
from workbench.engine import Draft, Run, Verification
from workbench.settings import settings
from workbench.techniques._technique import Technique, register


@register
@settings
class CandidateLength(Technique):
    """A chain from a draft model that ends where 1 - product of predicted acceptances passes a threshold.

    Parameters
    ----------
    model : str
        See :func:`workbench.drafting.drafter.drafter_model`.
    weights : str
        Of the acceptance head: ``bundled``, ``untrained``, or the path of a ``.safetensors`` file.
    threshold : float
        Probability of at least one rejection at which drafting stops; 1 never stops early.
    draft : int
        Most tokens drafted at once; 0 drafts nothing.
    """

    model: DrafterName = "auto"
    weights: Annotated[str, Field(min_length=1, description="acceptance head: bundled, untrained, or a file")] = (
        "bundled"
    )
    threshold: Annotated[float, Field(ge=0, le=1, description="chance of a rejection at which drafting stops")] = 0.7
    draft: Annotated[int, Field(ge=0, le=64, description="most tokens drafted at once")] = 16

    slots = ("draft",)
    exact = True
    paper = (
        "Huang et al., SpecDec++: Boosting Speculative Decoding via Adaptive Candidate Lengths, 2024, arXiv 2405.19715"
    )

    def start(self, run: Run) -> _Stopping | Silent:
        if not self.draft:
            return Silent()
        drafter = ModelDrafter.start(run, self.model, self.draft)
        return _Stopping(self, drafter, acceptance_head(run.model, drafter.model, self.weights), run)

    @classmethod
    def neutral(cls) -> Self:
        return cls(draft=0)

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return cls(model="/2", weights="untrained"), cls(model="/1.0", weights="untrained", threshold=0.95, draft=5)


class _Stopping:
    """The chain, and how likely it is still whole."""

    def __init__(self, technique: CandidateLength, drafter: ModelDrafter, head: AcceptanceHead, run: Run) -> None:
        self._threshold, self._draft = technique.threshold, technique.draft
        self._drafter, self._head, self._sampler = drafter, head, run.sampler
        self._vocabulary = run.model.anatomy.vocabulary

    def propose(self, tokens: Sequence[int], limit: int) -> Draft:
        length = min(self._draft, limit)
        if length < 1:
            return Draft()
        drafter = self._drafter
        drafter.reset_counts()
        logits = drafter.follow(tokens)
        confidence: list[float] = []

        def rejection_is_likely() -> bool:
            # What decides whether to go on must not know more of a sampled token than that it was drawn.
            confidence.append(float(torch.sigmoid(self._head(drafter.hidden[-1]))))
            return 1 - math.prod(confidence) > self._threshold

        chain = drafter.chain(logits, self._sampler, length, stop=rejection_is_likely)
        drafted, probabilities = chain.tokens, drafter.spread(chain.laws, self._vocabulary)
        flops = drafter.flops + self._head.flops * len(drafted)
        weights = sum(parameter.numel() * parameter.element_size() for parameter in self._head.parameters())
        return Draft(drafted, None, probabilities, flops, drafter.bytes + weights * len(drafted), confidence)

    def verified(self, verification: Verification) -> None:
        pass
