"""Trees whose siblings are drawn without replacement: how they grow from a drafter, and how they are verified.

Source
------
Jeon et al., Recursive Speculative Decoding, 2024, arXiv 2402.14160 (recursive rejection sampling). Drawing one after
the other from what is left of a distribution, renormalised, has the same distribution as taking the k largest of the
log-probabilities with Gumbel noise: Kool et al., Stochastic Beams and Where to Find Them, 2019, arXiv 1903.06059.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Self

from torch import Tensor

from workbench.engine import Draft, Sampler
from workbench.engine.accept import accept
from workbench.models.device import read
from workbench.techniques.draft._model_drafter import ModelDrafter

# What rounding may leave of a distribution that is used up.
_NOTHING = 1e-6


@dataclass
class TreeWithoutReplacement(Draft):
    """A draft whose siblings were drawn one after the other from one distribution, none twice.

    Attributes
    ----------
    distributions : list of (int Tensor [width], Tensor [width])
        Distributions that siblings were drawn from: tokens and their probabilities.
    distribution_of : list of int
        For each node the place of its distribution; without any the nodes were chosen without chance.
    drawn : list of tuple of int
        For each node places, in its distribution, of itself (last) and of the siblings drawn before it.
    """

    distributions: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    distribution_of: list[int] = field(default_factory=list)
    drawn: list[tuple[int, ...]] = field(default_factory=list)

    @property
    def by_chance(self) -> bool:
        return bool(self.distribution_of)

    def drawn_from(self, node: int, like: Tensor) -> Tensor:
        """See :meth:`workbench.engine.Draft.drawn_from`: what siblings before the node left, normalised."""
        if not self.distribution_of:
            return super().drawn_from(node, like)
        tokens, distribution = self.distributions[self.distribution_of[node]]
        *before, _ = self.drawn[node]
        distribution = distribution.to(like)
        if before:
            distribution = distribution.clone()
            distribution[before] = 0.0
            distribution /= distribution.sum()
        return like.new_zeros(like.shape).index_copy_(0, tokens, distribution)

    def pruned(self, kept: Sequence[int]) -> Self:
        """See :meth:`workbench.engine.Draft.pruned`."""
        if not self.distribution_of:
            return super().pruned(kept)
        places, drawn = [self.distribution_of[node] for node in kept], [self.drawn[node] for node in kept]
        return replace(super().pruned(kept), distribution_of=places, drawn=drawn)


def recursive_rejection(draft: Draft, logits: Tensor, sampler: Sampler) -> tuple[list[int], int]:
    """Walk down a tree whose siblings were drawn without replacement; as :func:`workbench.engine.accept.accept`.

    The i-th sibling is kept with probability min(1, p_i / q_i), where q_i is the drafter's distribution less the
    siblings before it, and p_i what the rejections before it left of the model's: max(0, p - q) of the one before,
    normalised. As q_i is just what the sibling was drawn from, given those before it, the result is distributed as p.
    It is the engine's own walk: the tree says what its nodes were drawn from.
    """
    return accept(draft, logits, sampler)


class GrowingTree:
    """A tree being drafted by a model: opened nodes have a distribution, from which their children are taken.

    Parameters
    ----------
    drafter : ModelDrafter
    sampler : Sampler
        Greedy: children are the most probable tokens in order; else drawn without replacement.
    width : int
        Tokens that a distribution is cut to; 0 keeps all.
    text : sequence of int

    Attributes
    ----------
    tokens, parents, depths : list of int
    chances : list of float
        Of every node the drafter's probability, given its parent.
    values : list of float
        Of every node the product of these from the root down to it.
    """

    def __init__(self, drafter: ModelDrafter, sampler: Sampler, width: int, text: Sequence[int]) -> None:
        self._drafter, self._sampler, self._width = drafter, sampler, width
        self.tokens: list[int] = []
        self.parents: list[int] = []
        self.depths: list[int] = []
        self.chances: list[float] = []
        self.values: list[float] = []
        self._distributions: list[tuple[Tensor, Tensor]] = []
        self._distribution_of: list[int] = []
        self._drawn: list[tuple[int, ...]] = []
        self._opened: dict[int, _Opened] = {}
        drafter.reset_counts()
        self._add([-1], drafter.follow(text)[None])

    def open(self, nodes: Sequence[int]) -> None:
        """Run the drafter once, for the distributions after all of ``nodes``; their parents are open."""
        # Leaves that stay closed have nothing to say.
        run = sorted({*self._opened, *nodes} - {-1})
        place = {-1: -1, **{node: row for row, node in enumerate(run)}}
        tokens, parents = [self.tokens[node] for node in run], [place[self.parents[node]] for node in run]
        self._add(nodes, self._drafter.grow(tokens, parents, [place[node] for node in nodes]))

    def is_open(self, node: int) -> bool:
        return node in self._opened

    def depth(self, node: int) -> int:
        """Distance from the text; -1, its end, has 0."""
        return 0 if node < 0 else self.depths[node]

    def value(self, node: int) -> float:
        """Product of the probabilities on the way to ``node``; 1 for -1."""
        return 1.0 if node < 0 else self.values[node]

    def left(self, node: int) -> float:
        """Probability that is left at an open node: of the next child if greedy, of all that were not drawn if not."""
        opened = self._opened[node]
        if self._sampler.greedy:
            return opened.chances[len(opened.drawn)] if len(opened.drawn) < len(opened.chances) else 0.0
        return opened.left if opened.left > _NOTHING else 0.0

    def take(self, node: int) -> int:
        """Add the next child of an open node of which something is left, and return it."""
        opened = self._opened[node]
        place = len(opened.drawn)
        if not self._sampler.greedy:
            place = self._sampler.chance.draw(opened.remaining / opened.remaining.sum())
            opened.remaining[place] = 0.0
            opened.left = float(opened.remaining.sum())
        opened.drawn.append(place)
        self.tokens.append(opened.tokens[place])
        self.parents.append(node)
        self.depths.append(self.depth(node) + 1)
        self.chances.append(opened.chances[place])
        self.values.append(self.value(node) * opened.chances[place])
        self._distribution_of.append(opened.row)
        self._drawn.append(tuple(opened.drawn))
        return len(self.tokens) - 1

    def draft(self) -> Draft:
        """The tree as it stands, and what it cost."""
        made = TreeWithoutReplacement(
            self.tokens, self.parents, None, self._drafter.flops, self._drafter.bytes, self.chances
        )
        if not self._sampler.greedy:
            made.distributions, made.distribution_of, made.drawn = (
                self._distributions,
                self._distribution_of,
                self._drawn,
            )
        return made

    def _add(self, nodes: Sequence[int], logits: Tensor) -> None:
        tokens, distributions = self._drafter.distribution(logits, self._sampler, self._width)
        for node, names, distribution, ids, chances in zip(nodes, tokens, distributions, *read(tokens, distributions)):
            self._opened[node] = _Opened(len(self._distributions), ids, chances, distribution.clone())
            self._distributions.append((names, distribution))


@dataclass
class _Opened:
    """Distribution after a node, and what was taken from it."""

    row: int
    tokens: list[int]
    chances: list[float]
    remaining: Tensor
    drawn: list[int] = field(default_factory=list)
    left: float = 1.0
