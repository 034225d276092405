"""Draft by a tree search over tri-gram statistics that follow the model while it writes.

Paper
-----
Liu et al., Adaptive Draft-Verification for Efficient Large Language Model Decoding (ADED), 2024, arXiv 2407.12021. A
tri-gram table approximates the model's next-token distribution and is updated with what the model says of every
verified token; drafts are made by a Monte-Carlo tree search whose score weighs what was good so far (exploitation)
against what is likely but little visited (exploration).

Formula
-------
P(x | a, b), a table of pairs (singles where a pair is unknown), is moved towards the model's p:

    P <- (1 - rate) P + rate p.

The search goes to the child of largest

    value / visits + explore P(child) sqrt(visits of the parent) / (1 + visits).

Deviates
--------
The table starts from the prompt alone, not from a corpus, and what was counted there leaves a share to the unseen, as
if one more token had followed. A pair of tokens that is not in it falls back to the last token's successors. The
model's distribution is normalised over its ``k`` best tokens, which are all that is kept of it. The search adds one
node in every round until the tree is full, and the whole tree is verified, in place of the most visited lines. The
value of a round is the table's probability of the line that it added, so no play-out is needed, and nothing is left to
chance.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Self

from pydantic import Field

from workbench.engine import Draft, Run, Verification
from workbench.models.device import read
from workbench.settings import settings
from workbench.techniques._technique import register
from workbench.techniques.draft._drafter import Drafter, DraftTechnique
from workbench.techniques.draft._top_tokens import top_tokens

Successors = list[tuple[int, float]]


@register
@settings
class TrigramDraft(DraftTechnique):
    """Tri-grams seen in the prompt and in the model's own distributions, searched as a tree.

    Parameters
    ----------
    nodes : int
        Tokens of the tree; 0 drafts nothing.
    explore : float
        Weight of exploring: large values try many siblings, 0 follows the best line.
    rate : float
        Share of a newly seen distribution in the table's.
    k : int
        Successors kept for every pair of tokens.
    """

    nodes: Annotated[int, Field(ge=0, le=80, description="tokens of the tree")] = 15
    explore: Annotated[float, Field(ge=0, le=10, description="weight of exploring against exploiting")] = 1.0
    rate: Annotated[float, Field(gt=0, le=1, description="share of a newly seen distribution")] = 0.7
    k: Annotated[int, Field(ge=1, le=16, description="successors kept for every pair of tokens")] = 8

    amount = "nodes"
    paper = "Liu et al., Adaptive Draft-Verification for Efficient LLM Decoding (ADED), 2024, arXiv 2407.12021"

    def drafter(self, run: Run) -> _Search:
        return _Search(self, run.prompt)

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return cls(nodes=10), cls(nodes=5, explore=0.2, rate=1.0, k=3)


class _Search(Drafter):
    """The table, and the search in it.

    Attributes
    ----------
    pairs, singles : dict
        Successors, the most probable first, of two tokens and of one.
    """

    def __init__(self, technique: TrigramDraft, prompt: Sequence[int]) -> None:
        self._settings = technique
        self._last = (prompt[-2] if len(prompt) > 1 else -1, prompt[-1])
        self.pairs: dict[tuple[int, int], Successors] = self._counted(
            ((one, two), three) for one, two, three in zip(prompt, prompt[1:], prompt[2:])
        )
        self.singles: dict[int, Successors] = self._counted(itertools.pairwise(prompt))

    def _counted(self, seen: Iterable[tuple]) -> dict:
        counts: dict = {}
        for context, token in seen:
            successors = counts.setdefault(context, {})
            successors[token] = successors.get(token, 0) + 1
        return {context: self._best(successors, 1 + sum(successors.values())) for context, successors in counts.items()}

    def _best(self, weights: dict[int, float], total: float = 1.0) -> Successors:
        ordered = sorted(weights.items(), key=lambda each: -each[1])[: self._settings.k]
        return [(token, weight / total) for token, weight in ordered]

    def propose(self, tokens: Sequence[int], limit: int) -> Draft:
        root = _Place(self._last[1], 1.0, self._successors(*self._last))
        added: list[_Place] = []
        while len(added) < self._settings.nodes and (grown := self._round(root, limit)) is not None:
            grown[0].node = len(added)
            added.append(grown[0])
        if not added:
            return Draft()
        # Siblings were added in the order of their probability, in which they are to be tried.
        parents = [place.parent.node for place in added]
        return Draft([place.token for place in added], parents, confidence=[place.chance for place in added])

    def _successors(self, before: int, last: int) -> Successors:
        return self.pairs.get((before, last)) or self.singles.get(last, [])

    def _round(self, here: _Place, room: int) -> tuple[_Place, float] | None:
        """One round below a place: the node that it adds and the probability of the line to it; None if there is
        nothing to add within ``room`` more levels."""
        explore = self._settings.explore
        while room and not here.closed:
            best = max((child for child in here.children if not child.closed), key=here.score(explore), default=None)
            added = None
            if len(here.children) < len(here.successors):
                # Of those not in the tree the most probable one has the highest score.
                token, chance = here.successors[len(here.children)]
                if best is None or explore * chance * math.sqrt(here.visits) > here.score(explore)(best):
                    child = _Place(token, chance, self._successors(here.token, token), here)
                    child.visits, child.value = 1, chance
                    here.children.append(child)
                    added = child, chance
            elif best is None:
                break
            added = added or self._round(best, room - 1)
            if added is not None:
                worth = here.chance * added[1]
                here.visits += 1
                here.value += worth
                return added[0], worth
        here.closed = True
        return None

    def verified(self, verification: Verification) -> None:
        draft = verification.draft
        top = top_tokens(verification.logits, min(self._settings.k, verification.logits.shape[-1]))
        chances = verification.logits.gather(1, top).float().softmax(-1)
        for row, (tokens, weights) in enumerate(zip(*read(top, chances))):
            context = self._last
            if row:
                parent = draft.parent(row - 1)
                context = (draft.tokens[parent] if parent >= 0 else self._last[1], draft.tokens[row - 1])
            self._learn(self.pairs, context, tokens, weights)
            self._learn(self.singles, context[1], tokens, weights)
        before, last = (self._last[1], *verification.tokens)[-2:]
        self._last = before, last

    def _learn(self, table: dict, context: object, tokens: Sequence[int], weights: Sequence[float]) -> None:
        rate = self._settings.rate
        mixed = {token: (1 - rate) * chance for token, chance in table.get(context, ())}
        rate = rate if mixed else 1.0
        for token, weight in zip(tokens, weights):
            mixed[token] = mixed.get(token, 0.0) + rate * weight
        table[context] = self._best(mixed)


class _Place:
    """A node of the search tree: how often rounds passed it, and what they were worth in sum."""

    __slots__ = ("chance", "children", "closed", "node", "parent", "successors", "token", "value", "visits")

    def __init__(self, token: int, chance: float, successors: Successors, parent: _Place | None = None) -> None:
        self.token, self.chance, self.successors, self.parent = token, chance, successors, parent
        self.children: list[_Place] = []
        self.visits, self.value, self.node, self.closed = 0, 0.0, -1, False

    def score(self, explore: float) -> Callable[[_Place], float]:
        """Score of a child: the mean worth of the rounds through it, and a bonus for what is probable but little
        visited (Silver et al., 2017, arXiv 1712.01815)."""
        bonus = explore * math.sqrt(self.visits)
        return lambda child: child.value / child.visits + bonus * child.chance / (1 + child.visits)
