"""A small model drafts a chain, the large one verifies it in one forward.

Paper
-----
Leviathan, Kalman, Matias, Fast Inference from Transformers via Speculative Decoding, 2022, arXiv 2211.17192; Chen et
al., Accelerating Large Language Model Decoding with Speculative Sampling, 2023, arXiv 2302.01318. Several chains drawn
independently: Sun et al., SpecTr, 2023, arXiv 2310.15141.

Formula
-------
A drafted token x ~ q is kept with probability min(1, p(x) / q(x)); after a rejection the next is drawn from

    max(0, p - q), normalised.

Of several chains, p is reduced so after every rejected sibling. With a chance a that a token is kept, a chain of k
gives (1 - a^(k+1)) / (1 - a) tokens for a forward.

Deviates
--------
Where no draft model was trained for the main one, the default drafter is half of the main model's own layers, evenly
spread and untrained, so that it runs with any model; it is seldom right.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Self

from pydantic import Field
from torch import Tensor

from workbench.engine import Draft, Run
from workbench.settings import settings
from workbench.techniques._technique import register
from workbench.techniques.draft._drafter import Drafter, DraftTechnique
from workbench.techniques.draft._model_drafter import DrafterName, ModelDrafter


@register
@settings
class DraftModel(DraftTechnique):
    """Speculative decoding with a second model of the same vocabulary.

    Parameters
    ----------
    model : str
        See :func:`~._model_drafter.drafter_model`: ``auto`` is the trained draft model if there is one,
        ``/12`` or ``/0.5`` cuts the main model, a name loads one.
    draft : int
        Tokens drafted at once; 0 drafts nothing.
    paths : int
        Chains drawn independently of one another when sampling, the candidates of
        :class:`workbench.techniques.OptimalTransportAccept`; greedy drafting has but one.
    """

    model: DrafterName = "auto"
    draft: Annotated[int, Field(ge=0, le=32, description="tokens drafted at once")] = 4
    paths: Annotated[int, Field(ge=1, le=8, description="chains drawn independently when sampling")] = 1

    paper = "Leviathan et al., 2022, arXiv 2211.17192; Chen et al., 2023, arXiv 2302.01318"

    def drafter(self, run: Run) -> _Chains:
        return _Chains(ModelDrafter.start(run, self.model, self.draft * self.paths), run, self.draft, self.paths)

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return cls(model="/2", draft=3), cls(model="/1.0", draft=4), cls(model="/2", draft=2, paths=3)


class _Chains(Drafter):
    """One chain, or several from the same root."""

    def __init__(self, drafter: ModelDrafter, run: Run, draft: int, paths: int) -> None:
        self._drafter, self._sampler, self._draft = drafter, run.sampler, draft
        self._paths = 1 if run.sampler.greedy else paths
        self._vocabulary = run.model.anatomy.vocabulary

    def propose(self, tokens: Sequence[int], limit: int) -> Draft:
        length = min(self._draft, limit)
        if length < 1:
            return Draft()
        self._drafter.reset_counts()
        logits = self._drafter.follow(tokens)
        draft = self._chain(logits, length) if self._paths == 1 else self._forest(logits, length)
        draft.flops, draft.bytes = self._drafter.flops, self._drafter.bytes
        return draft

    def _chain(self, logits: Tensor, length: int) -> Draft:
        chain = self._drafter.chain(logits, self._sampler, length)
        probabilities = self._drafter.spread(chain.distributions, self._vocabulary)
        return Draft(chain.tokens, None, probabilities, confidence=chain.confidence)

    def _forest(self, logits: Tensor, length: int) -> Draft:
        """Chains side by side, level by level; the siblings at the root are drawn from one distribution."""
        tokens: list[int] = []
        parents: list[int] = []
        distributions: list[Tensor] = []
        confidence: list[float] = []
        rows = logits.expand(self._paths, -1)
        for level in range(length):
            for path in range(self._paths):
                token, distribution, chance = self._drafter.draw(rows[path], self._sampler)
                tokens.append(token)
                parents.append(len(parents) - self._paths if level else -1)
                distributions.append(distribution)
                confidence.append(chance)
            if level + 1 < length:
                rows = self._drafter.grow(tokens, parents, range(len(tokens) - self._paths, len(tokens)))
        return Draft(tokens, parents, self._drafter.spread(distributions, self._vocabulary), confidence=confidence)
