"""Draft a tree from the candidates that the model itself threw away in earlier steps.

Paper
-----
Luo et al., Turning Trash into Treasure: Accelerating Inference of Large Language Models with Token Recycling, 2024,
arXiv 2408.08696. An adjacency matrix holds for every token the most probable successors when it was last seen, in any
verified row, kept or not; a static, imbalanced tree is filled from it breadth-first, and verified in one forward.

Formula
-------
M[x] = top-k of the logits of the last row that read x. The tree has the ``nodes`` places of largest product of rank
chances r_(i1) r_(i2) ...; the child of rank i of a node with token x is M[x][i].

Deviates
--------
The tree is not the paper's one of 80 nodes for a GPU: for any number of nodes it takes those with the largest product
of the chances of their ranks. ``_RANKS`` are how often the token that came stood at each rank of the matrix, counted
with the bundled model over 1,387 tokens, the answers to the first 24 training prompts
(:func:`workbench.tasks.training_prompts`, none of which is reported on), and made non-increasing. Of the prompt
only the last row's logits are known, so what the matrix starts from besides is the prompt's own pairs of neighbouring
tokens, the latest first; nothing is carried from one run to the next. Where one verification holds a token several
times, the row that was kept has the last word. Nodes of which nothing is known are left out.
"""

from __future__ import annotations

import functools
import heapq
from collections.abc import Sequence
from typing import Annotated, Self

import numpy as np
from pydantic import Field

from workbench.engine import Draft, Run, Verification
from workbench.settings import settings
from workbench.techniques._technique import register
from workbench.techniques.draft._drafter import Drafter, DraftTechnique
from workbench.techniques.draft._top_tokens import top_tokens

_RANKS = (0.40, 0.09, 0.043, 0.026, 0.0134, 0.0134, *[0.0051] * 10)
_WEIGHT = 8.0


@register
@settings
class TokenRecycling(DraftTechnique):
    """A token's successors of the last time, and theirs, as a tree.

    Parameters
    ----------
    nodes : int
        Tokens of the tree; 0 drafts nothing.
    k : int
        Successors kept for every token.
    pairs : bool
        Whether the prompt's neighbouring tokens fill the matrix first.
    """

    nodes: Annotated[int, Field(ge=0, le=80, description="tokens of the tree")] = 15
    k: Annotated[int, Field(ge=1, le=16, description="successors kept for every token")] = 8
    pairs: Annotated[bool, Field(description="start from the prompt's pairs of tokens")] = True

    amount = "nodes"
    paper = "Luo et al., Turning Trash into Treasure: Token Recycling, 2024, arXiv 2408.08696"

    def drafter(self, run: Run) -> _Recycler:
        return _Recycler(self, run.model.anatomy.vocabulary, run.prompt)

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return cls(nodes=12), cls(nodes=6, k=2, pairs=False)


class _Recycler(Drafter):
    """The adjacency matrix, the tree, and how often each place of the tree was right.

    Attributes
    ----------
    matrix : int array [vocabulary, k]
        Successors of every token, the most probable first; -1 where none is known.
    """

    def __init__(self, technique: TokenRecycling, vocabulary: int, prompt: Sequence[int]) -> None:
        self._k = min(technique.k, vocabulary)
        self.matrix = np.full((vocabulary, self._k), -1, dtype=np.int64)
        self._layers = template(technique.nodes, self._k)
        depths = len(self._layers) + 1
        self._kept = np.outer(np.ones(depths), _WEIGHT * np.array(_RANKS[: self._k]))
        self._tried = np.full((depths, self._k), _WEIGHT)
        self._last = prompt[-1]
        if technique.pairs:
            self._fill(prompt)

    def _fill(self, prompt: Sequence[int]) -> None:
        followers: dict[int, dict[int, None]] = {}
        for token, following in zip(prompt[-2::-1], prompt[:0:-1]):
            known = followers.setdefault(token, {})
            if len(known) < self._k:
                known[following] = None
        for token, known in followers.items():
            self.matrix[token, : len(known)] = list(known)

    def propose(self, tokens: Sequence[int], limit: int) -> Draft:
        drafted: list[int] = []
        parents: list[int] = []
        confidence: list[float] = []
        above, places = np.array([tokens[-1]]), np.array([-1])
        for depth, (parent, rank) in enumerate(self._layers[:limit], 1):
            # Nodes below an unknown one are unknown, whatever the last row of the matrix says.
            successors = np.where(above[parent] >= 0, self.matrix[above[parent], rank], -1)
            known = successors >= 0
            if not known.any():
                break
            own = np.where(known, len(drafted) + np.cumsum(known) - 1, -1)
            drafted += successors[known].tolist()
            parents += places[parent][known].tolist()
            confidence += (self._kept[depth, rank] / self._tried[depth, rank])[known].tolist()
            above, places = successors, own
        return Draft(drafted, parents, confidence=confidence) if drafted else Draft()

    def verified(self, verification: Verification) -> None:
        draft, path = verification.draft, verification.path
        tokens = np.array([self._last, *draft.tokens])
        if draft.tokens:
            self._count(draft, path, tokens)
        # Written last, a kept row stays where a rejected one held the same token.
        rows = np.full(len(tokens), True)
        rows[[0, *(node + 1 for node in path)]] = False
        order = np.concatenate((np.flatnonzero(rows), np.flatnonzero(~rows)))
        top = top_tokens(verification.logits, self._k).cpu().numpy()
        self.matrix[tokens[order]] = top[order]
        self._last = verification.next_token

    def _count(self, draft: Draft, path: Sequence[int], tokens: np.ndarray) -> None:
        kept, reached = set(path), {-1, *path}
        for node, depth in enumerate(draft.depths()):
            parent = draft.parent(node)
            if parent in reached and depth < len(self._tried):
                # No rank at all where another drafter's node was verified too.
                rank = np.flatnonzero(self.matrix[tokens[parent + 1]] == draft.tokens[node])[:1]
                self._tried[depth, rank] += 1
                self._kept[depth, rank] += node in kept


@functools.lru_cache(maxsize=16)
def template(nodes: int, k: int) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """The static tree: its ``nodes`` most promising places, where each place's chance is the product of those of the
    ranks on the way to it.

    Returns
    -------
    tuple of (parent, rank), each an int array [nodes of the layer]
        One for each depth from 1: place of the parent in the layer above, and its rank among the successors.
    """
    paths: list[tuple[int, ...]] = []
    waiting: list[tuple[float, tuple[int, ...]]] = [(-_RANKS[0], (0,))]
    while len(paths) < nodes:
        chance, path = heapq.heappop(waiting)
        paths.append(path)
        heapq.heappush(waiting, (chance * _RANKS[0], (*path, 0)))
        if path[-1] + 1 < k:
            heapq.heappush(waiting, (chance / _RANKS[path[-1]] * _RANKS[path[-1] + 1], (*path[:-1], path[-1] + 1)))
    layers = []
    for depth in range(1, max(map(len, paths), default=0) + 1):
        above = sorted(path for path in paths if len(path) == depth - 1) or [()]
        here = sorted(path for path in paths if len(path) == depth)
        parent, rank = [above.index(path[:-1]) for path in here], [path[-1] for path in here]
        layers.append((np.array(parent), np.array(rank)))
    return tuple(layers)
