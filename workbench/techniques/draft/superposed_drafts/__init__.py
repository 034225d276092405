"""Draft a tree of several continuations for the forwards of one.

Paper
-----
Shen et al., Superposed Decoding: Multiple Generations from a Single Autoregressive Inference Pass, 2024, arXiv
2405.18400. Each forward reads a weighted sum of the last tokens' embeddings of k drafts; an n-gram filter sorts out
which of the next tokens goes with which draft.

Formula
-------
The next row is the blend sum_d w_d E[x_d] of the k drafts' last tokens, w = softmax of the drafts' log-probabilities. A
token x after draft d has p_M(x)^(1-a) p_d(x)^a, a = ``filter_weight``, with p_d the n-grams of length 1 ... 5, weighted
0.01, 0.04, 0.15, 0.18, 0.12 where they know the context, and p_M for the rest.

Deviates
--------
The paper shows its drafts to a user who completes a text, and no model checks them: that is
:func:`~.superposition.superposed_continuations`, where the filter's deviations stand. Here they become a tree that the
main model verifies, so that nothing inexact is written; what drafts is a smaller model, for the main model itself would
be read once for every level of the tree.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Self

from pydantic import Field

from workbench.engine import Draft, Run
from workbench.settings import outside, settings
from workbench.techniques._technique import register
from workbench.techniques.draft._drafter import Drafter, DraftTechnique
from workbench.techniques.draft._model_drafter import ModelDrafter
from workbench.techniques.draft.superposed_drafts.superposition import Ngrams, Superposed, superpose


@register
@settings
class SuperposedDrafts(DraftTechnique):
    """k drafts of a draft model from one pass through the levels.

    Parameters
    ----------
    k : int
        Drafts carried along; 0 drafts nothing.
    length : int
        Tokens of each.
    filter_weight : float
        Exponent of the n-gram distribution against the draft model's own; 0 leaves n-grams out. The paper's code has
        0.54 for three drafts.
    model : str
        See :func:`workbench.techniques.draft._model_drafter.drafter_model`.
    """

    k: Annotated[int, Field(ge=0, le=16, description="drafts carried along")] = 3
    length: Annotated[int, Field(ge=1, le=16, description="tokens of each draft")] = 4
    filter_weight: Annotated[float, Field(ge=0, le=1, description="weight of the n-gram filter")] = 0.54
    model: Annotated[str, outside("model", "drafter: /layers, /share, or a model's name", min_length=1)] = "auto"

    amount = "k"
    paper = "Shen et al., Superposed Decoding: Multiple Generations from a Single Pass, 2024, arXiv 2405.18400"

    def drafter(self, run: Run) -> _Superposer:
        return _Superposer(self, ModelDrafter.start(run, self.model, self.length))

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return cls(length=3, model="/2"), cls(k=2, length=4, filter_weight=0.0, model="/1.0")


class _Superposer(Drafter):
    """The drafter, and the n-grams of the text so far."""

    def __init__(self, technique: SuperposedDrafts, drafter: ModelDrafter) -> None:
        self._settings, self._drafter = technique, drafter
        self._ngrams, self._counted = Ngrams(), 0

    def propose(self, tokens: Sequence[int], limit: int) -> Draft:
        own, drafter = self._settings, self._drafter
        self._ngrams.add(tokens[self._counted :])
        self._counted = len(tokens)
        drafter.reset_counts()
        logits = drafter.follow(tokens)
        drafts = superpose(
            drafter.decoder,
            logits,
            own.k,
            min(own.length, limit),
            own.filter_weight,
            self._ngrams,
            tokens[-8:],
            drafter.token,
        )
        tree = as_tree(drafts)
        tree.flops, tree.bytes = drafter.flops, drafter.bytes
        return tree


def as_tree(drafts: Sequence[Superposed]) -> Draft:
    """Drafts as one tree: what they begin with in common stands once, and the best draft's nodes come first."""
    places: dict[tuple[int, ...], int] = {(): -1}
    tokens: list[int] = []
    parents: list[int] = []
    confidence: list[float] = []
    for depth in range(1, len(drafts[0].tokens) + 1):
        for draft in drafts:
            line = tuple(draft.tokens[:depth])
            if line not in places:
                places[line] = len(tokens)
                tokens.append(line[-1])
                parents.append(places[line[:-1]])
                confidence.append(draft.chances[depth - 1])
    return Draft(tokens, parents, confidence=confidence)
