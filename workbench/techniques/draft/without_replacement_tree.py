"""A draft tree whose siblings all differ, and which is verified as such.

Paper
-----
Jeon et al., Recursive Speculative Decoding: Accelerating LLM Inference via Sampling Without Replacement, 2024, arXiv
2402.14160. Stochastic beam search: Kool et al., Stochastic Beams and Where to Find Them, 2019, arXiv 1903.06059.

Formula
-------
The siblings of a node are drawn from q_1 = q, q_(i+1) = q_i less its i-th, normalised, and kept with

    min(1, p_i / q_i),    p_1 = p,    p_(i+1) = max(0, p_i - q_i), normalised.

Beams keep the largest phi + Gumbel(0), phi the path's log-probability; no child's sum exceeds its parent's.

Deviates
--------
The paper adds Gumbel noise to every log-probability and takes the largest. Here the largest, the second largest and so
on are drawn one after the other: the token from what is left of the distribution, its noisy log-probability from a
Gumbel distribution cut off at that of the one before. The joint distribution is the same, and noise is drawn for the
nodes of the tree alone rather than for every token of the vocabulary. The drafter's distributions are cut to their most
probable tokens.
When decoding is greedy, the most probable tokens and the plain beam take the place of the drawn ones.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import Field
from torch import Tensor

from workbench.engine import Chance, Draft, Run, Sampler
from workbench.engine.slots import AcceptPolicy
from workbench.errors import SettingError
from workbench.settings import settings
from workbench.techniques._technique import Technique, register
from workbench.techniques.draft._drafter import Drafter
from workbench.techniques.draft._model_drafter import DrafterName, ModelDrafter
from workbench.techniques.draft._without_replacement import GrowingTree, recursive_rejection


@register
@settings
class WithoutReplacementTree(Technique):
    """Recursive speculative decoding: siblings without replacement, recursive rejection.

    Parameters
    ----------
    model : str
        See :func:`workbench.techniques.draft._model_drafter.drafter_model`.
    search : {"branching", "beam"}
        ``branching``: every node of a level has the same number of children, by Gumbel-top-k (the paper's RSD-C);
        ``beam``: of all children of a level the best ``beam`` stay, by stochastic beam search (RSD-S).
    depth : int
        Levels; 0 drafts nothing.
    branching : str
        Children of a node of the first level, the second, and so on, the last number for all that follow: ``3-2-1``.
    beam : int
        Nodes of a level.
    width : int
        Most probable tokens that a draft distribution is cut to; 0 keeps all.

    Notes
    -----
    Verifying siblings one after the other is exact if each was drawn from the drafter's distribution less the siblings
    before it, whatever else is known at that moment. In a beam, how many siblings stay depends on their noisy
    log-probabilities. But which token comes next is independent of how large its noisy log-probability is, given those
    before it; so it is independent of whether it, or an earlier one, stayed.
    """

    model: DrafterName = "auto"
    search: Annotated[Literal["branching", "beam"], Field(description="children of every node, or best of a level")] = (
        "beam"
    )
    depth: Annotated[int, Field(ge=0, le=16, description="levels of the tree")] = 4
    branching: Annotated[str, Field(pattern=r"^[1-9](-[1-9]){0,15}$", description="children by level, as 3-2-1")] = (
        "3-2-1"
    )
    beam: Annotated[int, Field(ge=1, le=16, description="nodes of a level in a beam")] = 4
    width: Annotated[int, Field(ge=0, le=1024, description="tokens a draft distribution is cut to; 0: all")] = 128

    slots = ("draft", "accept")
    exact = True
    paper = "Jeon et al., Recursive Speculative Decoding, 2024, arXiv 2402.14160"

    def start(self, run: Run) -> _Recursive:
        nodes = self.depth * self.beam
        if self.search == "branching":
            nodes = sum(math.prod(self.children(level) for level in range(top)) for top in range(1, self.depth + 1))
        if nodes > 128:
            raise SettingError(f"a tree of {self.branching} and depth {self.depth} has {nodes:,} nodes: at most 128")
        return _Recursive(self, ModelDrafter.start(run, self.model, nodes), run.sampler)

    def children(self, level: int) -> int:
        """Children of a node of ``level``, the text's end being 0."""
        factors = self.branching.split("-")
        return int(factors[min(level, len(factors) - 1)])

    @classmethod
    def neutral(cls) -> Self:
        return cls(depth=0)

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return cls(model="/2", search="branching", depth=3), cls(model="/1.0", beam=3, depth=3, width=0)

    @classmethod
    def smallest(cls) -> Self:
        return cls(model="/2", beam=2, depth=2)


class _Recursive(Drafter, AcceptPolicy):
    """A tree for every step, and its verification."""

    def __init__(self, technique: WithoutReplacementTree, drafter: ModelDrafter, sampler: Sampler) -> None:
        self._technique, self._drafter, self._sampler = technique, drafter, sampler

    def propose(self, tokens: Sequence[int], limit: int) -> Draft:
        technique = self._technique
        depth = min(technique.depth, limit)
        if depth < 1:
            return Draft()
        tree = GrowingTree(self._drafter, self._sampler, technique.width, tokens)
        layer, noisy = [-1], {-1: 0.0}
        for level in range(depth):
            if level:
                tree.open(layer)
            if technique.search == "branching":
                layer = branch(tree, layer, technique.children(level))
            elif self._sampler.greedy:
                layer = best(tree, layer, technique.beam)
            else:
                layer, noisy = stochastic_beam(tree, layer, noisy, technique.beam, self._sampler.chance)
            if not layer:
                break
        return tree.draft()

    def accept(self, draft: Draft, logits: Tensor, sampler: Sampler) -> tuple[list[int], int]:
        return recursive_rejection(draft, logits, sampler)


def branch(tree: GrowingTree, layer: Sequence[int], children: int) -> list[int]:
    """``children`` new nodes below each of ``layer``, fewer where the distribution has fewer tokens."""
    return [tree.take(parent) for parent in layer for _ in range(children) if tree.left(parent) > 0]


def best(tree: GrowingTree, layer: Sequence[int], beam: int) -> list[int]:
    """The ``beam`` most probable continuations of ``layer``."""
    heap = [(-tree.value(parent) * tree.left(parent), parent) for parent in layer]
    heapq.heapify(heap)
    taken: list[int] = []
    while len(taken) < beam and heap and heap[0][0] < 0:
        parent = heap[0][1]
        taken.append(tree.take(parent))
        heapq.heapreplace(heap, (-tree.value(parent) * tree.left(parent), parent))
    return taken


def stochastic_beam(
    tree: GrowingTree, layer: Sequence[int], noisy: dict[int, float], beam: int, chance: Chance
) -> tuple[list[int], dict[int, float]]:
    """The ``beam`` continuations of ``layer`` whose log-probabilities are largest with noise.

    Parameters
    ----------
    layer : sequence of int
    noisy : dict of int to float
        Noisy log-probability of each of them, which is also that of its best child.

    Returns
    -------
    layer : list of int
    noisy : dict of int to float
    """
    heap = [(-noisy[parent], parent) for parent in layer]
    heapq.heapify(heap)
    taken, kept = list[int](), dict[int, float]()
    while len(taken) < beam and heap:
        value, parent = heapq.heappop(heap)
        node = tree.take(parent)
        taken.append(node)
        kept[node] = -value
        left = tree.left(parent)
        if left > 0:
            location = math.log(tree.value(parent)) + math.log(left)
            heapq.heappush(heap, (-truncated_gumbel(location, -value, chance.uniform()), parent))
    return taken, kept


def truncated_gumbel(location: float, most: float, uniform: float) -> float:
    """A Gumbel number of a location, given that it is at most ``most``, by inversion of a uniform one."""
    return location - math.log(math.exp(location - most) - math.log(uniform))
