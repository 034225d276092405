"""Grow the draft tree where the drafter itself says it will be accepted.

Paper
-----
Xiong et al., DySpec: Faster Speculative Decoding with Dynamic Token Tree Structure, 2024, arXiv 2410.11744.

Formula
-------
A candidate below a node is worth

    V = (product of q(x_i | x_<i) down to the node) (1 - sum of q over its children already taken),

and the candidate of largest V is drawn next: ``greedy``; or level by level all with V >= ``threshold``: ``layers``.

Deviates
--------
The paper's greedy growth runs the drafter once for every node. Here a node's distribution is asked for only when the
node's turn comes, and then together with those of all nodes that wait for theirs: the same tree in about as many
forwards as it has levels. The drafter's distributions are cut to their most probable tokens, which any drafter may do.
When decoding is greedy nothing is drawn: a node is worth the product of the drafter's probabilities down to it, and the
tree is that of the most probable nodes, found level by level.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import Field
from torch import Tensor

from workbench.engine import Draft, Run, Sampler
from workbench.engine.slots import AcceptPolicy
from workbench.settings import settings
from workbench.techniques._technique import Technique, register
from workbench.techniques.draft._drafter import Drafter
from workbench.techniques.draft._model_drafter import DrafterName, ModelDrafter
from workbench.techniques.draft._without_replacement import GrowingTree, recursive_rejection


@register
@settings
class DynamicTree(Technique):
    """Tree grown by the product of draft probabilities under a budget of nodes.

    A candidate is worth the probability of the path to its parent times what is left there of the drafter's
    distribution after the siblings already taken. Siblings are drawn without replacement and verified so.

    Parameters
    ----------
    model : str
        See :func:`workbench.techniques.draft._model_drafter.drafter_model`.
    budget : int
        Most nodes; 0 drafts nothing.
    growth : {"greedy", "layers"}
        ``greedy`` always takes the candidate that is worth most; ``layers`` takes level by level all that are worth
        ``threshold``, which needs exactly one forward of the drafter for a level.
    threshold : float
        Candidates worth less are not drafted.
    forwards : int
        Most forwards of the drafter for one tree.
    deepen : float
        Least worth of a node for which the drafter runs once more.
    width : int
        Most probable tokens that a draft distribution is cut to; 0 keeps all.
    """

    model: DrafterName = "auto"
    budget: Annotated[int, Field(ge=0, le=64, description="most nodes of a tree")] = 16
    growth: Annotated[
        Literal["greedy", "layers"], Field(description="best candidate first, or level by level above a threshold")
    ] = "greedy"
    threshold: Annotated[float, Field(ge=0, le=1, description="least worth of a candidate")] = 0.02
    forwards: Annotated[int, Field(ge=1, le=32, description="most forwards of the drafter for a tree")] = 6
    deepen: Annotated[float, Field(ge=0, le=1, description="least worth of a node for another forward")] = 0.1
    width: Annotated[int, Field(ge=0, le=1024, description="tokens a draft distribution is cut to; 0: all")] = 128

    slots = ("draft", "accept")
    exact = True
    paper = "Xiong et al., DySpec: Dynamic Token Tree Structure, 2024, arXiv 2410.11744"

    def start(self, run: Run) -> _Grower:
        return _Grower(self, ModelDrafter.start(run, self.model, self.budget), run.sampler)

    @classmethod
    def neutral(cls) -> Self:
        return cls(budget=0)

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return cls(model="/2", budget=9, deepen=0.0), cls(model="/1.0", growth="layers", budget=12, width=8)

    @classmethod
    def smallest(cls) -> Self:
        return cls(model="/2", budget=3, deepen=0.0)


class _Grower(Drafter, AcceptPolicy):
    """A tree for every step, and its verification."""

    def __init__(self, technique: DynamicTree, drafter: ModelDrafter, sampler: Sampler) -> None:
        self._technique, self._drafter, self._sampler = technique, drafter, sampler

    def propose(self, tokens: Sequence[int], limit: int) -> Draft:
        if limit < 1 or not self._technique.budget:
            return Draft()
        tree = GrowingTree(self._drafter, self._sampler, self._technique.width, tokens)
        if self._technique.growth == "layers":
            by_layers(tree, self._technique, limit)
        elif self._sampler.greedy:
            return tree.draft().pruned(most_probable(tree, self._technique, limit))
        else:
            greedily(tree, self._technique, limit)
        return tree.draft()

    def accept(self, draft: Draft, logits: Tensor, sampler: Sampler) -> tuple[list[int], int]:
        return recursive_rejection(draft, logits, sampler)


def most_probable(tree: GrowingTree, technique: DynamicTree, limit: int) -> list[int]:
    """Take, level by level, all that may be among the most probable nodes, and return these, of no chance drawn.

    A node among the best has its parent among them, so only children of the best so far need be looked at.
    """
    best: list[int] = []
    for depth in range(min(limit, technique.forwards)):
        layer = [node for node in best if tree.depths[node] == depth and tree.values[node] >= technique.deepen]
        if depth and layer:
            tree.open(layer)
        heap = [(-tree.value(node) * tree.left(node), node) for node in (layer if depth else [-1])]
        heapq.heapify(heap)
        least = min((tree.values[node] for node in best), default=0.0) if len(best) == technique.budget else 0.0
        taken = 0
        while heap and taken < technique.budget and -heap[0][0] > least and -heap[0][0] >= technique.threshold:
            parent = heap[0][1]
            best.append(tree.take(parent))
            taken += 1
            heapq.heapreplace(heap, (-tree.value(parent) * tree.left(parent), parent))
        if not taken:
            break
        best = sorted(sorted(best, key=lambda node: -tree.values[node])[: technique.budget])
    return best


def greedily(tree: GrowingTree, technique: DynamicTree, limit: int) -> None:
    """Take the candidate that is worth most, again and again."""
    heap = [(-tree.left(-1), -1)]
    forwards = 1
    while heap and len(tree.tokens) < technique.budget:
        worth, parent = heapq.heappop(heap)
        worth = -worth
        if worth <= 0 or worth < technique.threshold:
            return
        if not tree.is_open(parent):
            if forwards == technique.forwards or worth < technique.deepen:
                continue
            waiting = [node for value, node in heap if not tree.is_open(node) and -value >= technique.deepen]
            tree.open(sorted([parent, *waiting]))
            forwards += 1
        child = tree.take(parent)
        heapq.heappush(heap, (-tree.value(parent) * tree.left(parent), parent))
        if tree.depth(child) < limit:
            heapq.heappush(heap, (-tree.value(child), child))


def by_layers(tree: GrowingTree, technique: DynamicTree, limit: int) -> None:
    """Of every level take all candidates above the threshold, those of the likeliest parents first."""
    layer, least = [-1], max(technique.deepen, technique.threshold)
    for depth in range(min(limit, technique.forwards)):
        layer = sorted((node for node in layer if tree.value(node) >= least), key=tree.value, reverse=True)
        if depth and layer:
            tree.open(sorted(layer))
        children = []
        for parent in layer:
            while len(tree.tokens) < technique.budget:
                worth = tree.value(parent) * tree.left(parent)
                if worth <= 0 or worth < technique.threshold:
                    break
                children.append(tree.take(parent))
        layer = children
        if not layer or len(tree.tokens) == technique.budget:
            return
