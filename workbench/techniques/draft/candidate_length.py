"""Stop drafting when a rejection has become likely.

Paper
-----
Huang, Guo, Wang, SpecDec++: Boosting Speculative Decoding via Adaptive Candidate Lengths, 2024, arXiv 2405.19715.

Source
------
github.com/Kaffaljidhmah2/SpecDec_pp

The draft model reads each token it has drafted, which gives the next one's distribution and, through the head, the
chance ``a`` that the token just read is accepted. Once token ``k`` is drawn, drafting ends if ``1 - a_1 a_2 … a_(k-1)``
exceeds the threshold. The head knows the tokens drawn; that leaves the output's distribution as it is, because each is
drawn before it is known whether another will follow.

Formula
-------
Drafting ends after token k once 1 - a_1 a_2 ... a_(k-1) > ``threshold``, a_i = sigmoid(head) for the drafted token i.

Deviates
--------
The head is trained on the frozen distilled draft model of this workbench and for sampling at temperature 1; greedy
decoding and other temperatures are served with the same one. It is weak: of the fates of drafted tokens it foretells
little more than always rejecting does (greedy: no more), and fewer than the draft model's own probability; its card has
the figures. As in the paper, rejections weigh six times as much as acceptances in training, which balances both there;
here rejections are the many already. So what the head says is less than the chance; the threshold is meant for that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Self

import torch
from pydantic import Field
from torch import Tensor

from workbench.engine import Draft, Run
from workbench.parts.acceptance import AcceptanceHead, acceptance_head
from workbench.settings import outside, settings
from workbench.techniques._technique import register
from workbench.techniques.draft._drafter import Drafter, DraftTechnique
from workbench.techniques.draft._model_drafter import DrafterName, ModelDrafter


@register
@settings
class CandidateLength(DraftTechnique):
    """A chain from a draft model that ends where a rejection among the tokens it has read has become likely.

    Parameters
    ----------
    model : str
        See :func:`workbench.techniques.draft._model_drafter.drafter_model`.
    weights : str
        Of the acceptance head: ``bundled``, ``untrained``, or the path of a ``.safetensors`` file.
    threshold : float
        Probability of at least one rejection at which drafting stops; 1 never stops early.
    draft : int
        Most tokens drafted at once; 0 drafts nothing.
    """

    model: DrafterName = "auto"
    weights: Annotated[str, outside("part", "acceptance head: bundled, untrained, or a file", min_length=1)] = "bundled"
    threshold: Annotated[float, Field(ge=0, le=1, description="chance of a rejection at which drafting stops")] = 0.7
    draft: Annotated[int, Field(ge=0, le=64, description="most tokens drafted at once")] = 16

    paper = (
        "Huang et al., SpecDec++: Boosting Speculative Decoding via Adaptive Candidate Lengths, 2024, arXiv 2405.19715"
    )

    def drafter(self, run: Run) -> _Stopping:
        drafter = ModelDrafter.start(run, self.model, self.draft)
        return _Stopping(self, drafter, acceptance_head(run.model, drafter.model, self.weights), run)

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return cls(model="/2", weights="untrained"), cls(model="/1.0", weights="untrained", threshold=0.95, draft=5)


class _Stopping(Drafter):
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
        accepted: list[float] = []

        def read(token: list[int]) -> Tensor:
            after = drafter.extend(token)
            accepted.append(float(torch.sigmoid(self._head(drafter.hidden[-1]))))
            return after

        def rejection_is_likely() -> bool:
            return 1 - math.prod(accepted) > self._threshold

        chain = drafter.chain(logits, self._sampler, length, read, rejection_is_likely)
        probabilities = drafter.spread(chain.distributions, self._vocabulary)
        flops = drafter.flops + self._head.flops * len(accepted)
        weights = sum(parameter.numel() * parameter.element_size() for parameter in self._head.parameters())
        # No head has read the last token; the drafter's own probability is the only view of it.
        confidence = [*accepted, chain.confidence[-1]]
        return Draft(chain.tokens, None, probabilities, flops, drafter.bytes + weights * len(accepted), confidence)
