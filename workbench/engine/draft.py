"""What a drafter proposes, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

if TYPE_CHECKING:
    from workbench.engine.decoder import Decoder
    from workbench.engine.passes import Pass
    from workbench.engine.state import KeyValueCache


@dataclass
class Lookahead:
    """Rows that ride along in a verification and are dropped after it: what they say is material for the next draft.

    Each row stands ``order`` tokens after its ``root`` and sees what the root sees, the rows of the same root with a
    lower order, and itself. Depth of the root plus order must not exceed the limit that ``propose`` is given.

    Attributes
    ----------
    roots : list of int
        For each row its root: 0 is the last accepted token, ``1 + node`` a drafted one.
    orders : list of int
        From 1; the rows of a root stand in order, each once.
    make : callable
        ``make(x [rows, width], orders)``: rows of the residual stream [rows, width] from those of their roots.
    layer : int
        They enter before this layer; 0 is straight after the embedding.
    """

    roots: list[int]
    orders: list[int]
    make: Callable[[Tensor, list[int]], Tensor]
    layer: int = 0

    def parents(self, count: int) -> list[int]:
        """Place of every row's parent in a pass of ``count`` tokens that the rows are appended to."""
        placed = {(root, order): count + row for row, (root, order) in enumerate(zip(self.roots, self.orders))}
        return [root if order == 1 else placed[root, order - 1] for root, order in zip(self.roots, self.orders)]


@dataclass
class Look:
    """A look at the verification while it is under way.

    Attributes
    ----------
    layer : int
        Before which it is taken; after the last block where no block from there on runs.
    see : callable
        ``see(opened_pass)``: the paused :class:`~workbench.engine.passes.Pass`, whose rows are the last accepted token
        and the nodes of the draft that is verified.
    """

    layer: int
    see: Callable[[Pass], None]


@dataclass
class Draft:
    """Candidate tokens: a chain, or a tree.

    Attributes
    ----------
    tokens : list of int
        One for each node, parents before children, siblings in the order in which they are to be tried.
    parents : list of int or None
        Place of each node's parent in ``tokens``, -1 for the last accepted token; None for a chain.
    probabilities : Tensor [nodes, vocabulary] or None
        The distribution that each node was drawn from, independently of its siblings; None where tokens were chosen
        without chance.
    flops, bytes : int
        What drafting cost, counted.
    confidence : list of float or None
        For each node the chance, as the drafter sees it, that it is kept if its parent is; None where it has no view.
    ahead : Lookahead or None
        Rows to run beside the nodes.
    looks : tuple of Look
        Looks at the verifying pass, at whatever layers.
    paused : Pass or None
        The verification itself, as far as the drafter has run it: a pass of the verifying decoder
        (:attr:`Verification.decoder`) whose tokens are the last accepted one and the nodes. It is resumed, so that what
        drafting and verifying share is computed once; what it computed is counted there, not in ``flops``.
    following : callable or None
        Gives a token drawn for the place after the last node, and the distribution [vocabulary] that it was drawn from.
        It is asked for, and may still be waited for, when the forward is done and every node of a chain was kept: the
        token is then verified against the model's distribution there, which needs no row of its own. Sampling only.
    """

    tokens: list[int] = field(default_factory=list)
    parents: list[int] | None = None
    probabilities: Tensor | None = None
    flops: int = 0
    bytes: int = 0
    confidence: list[float] | None = None
    ahead: Lookahead | None = None
    looks: tuple[Look, ...] = ()
    paused: Pass | None = None
    following: Callable[[], tuple[int, Tensor]] | None = None

    @property
    def by_chance(self) -> bool:
        """Whether tokens were drawn, so that dropping some for what they are, or for the shape that they gave the
        draft, would bend the distribution."""
        return self.probabilities is not None or self.following is not None

    def drawn_from(self, node: int, like: Tensor) -> Tensor:
        """The distribution [vocabulary] that a node was drawn from, given the siblings before it, in the format of
        ``like`` [vocabulary]; of a node chosen without chance the one that has only its token."""
        if self.probabilities is not None:
            return self.probabilities[node].to(like)
        only = torch.zeros_like(like)
        only[self.tokens[node]] = 1.0
        return only

    def resumed(self, decoder: Decoder, text: Sequence[int]) -> Pass | None:
        """The paused pass, if it is one of this decoder after ``text`` and has read this draft; any other is closed,
        also one that somebody left open."""
        paused = self.paused
        if paused is None:
            decoder.close_open()
            return None
        begins = paused.decoder is decoder and not paused.finished and paused.start == len(text) - 1
        if begins and paused.tokens == [text[-1], *self.tokens]:
            nodes = range(len(self.tokens))
            if paused.relation.parents[: paused.count] == [-1, *(self.parent(node) + 1 for node in nodes)]:
                return paused
        paused.close()
        decoder.close_open()
        return None

    def children(self) -> dict[int, list[int]]:
        """Node, or -1 for the last accepted token, -> its children, in the order in which they are to be tried."""
        children: dict[int, list[int]] = {}
        for node in range(len(self.tokens)):
            children.setdefault(self.parent(node), []).append(node)
        return children

    def parent(self, node: int) -> int:
        return node - 1 if self.parents is None else self.parents[node]

    def path_to(self, node: int) -> list[int]:
        """Tokens from the first drafted one down to ``node``; none for -1."""
        return [] if node < 0 else [*self.path_to(self.parent(node)), self.tokens[node]]

    def nodes(self, path: Sequence[int]) -> tuple[tuple[int, int, bool, float | None], ...]:
        """What a step says of every node once those of ``path`` are kept, see :attr:`workbench.engine.Step.nodes`."""
        kept = set(path)
        chances = self.confidence or [None] * len(self.tokens)
        return tuple((token, self.parent(node), node in kept, chances[node]) for node, token in enumerate(self.tokens))

    def depths(self) -> list[int]:
        """Distance of every node from the last accepted token; its children have 1."""
        depths: list[int] = []
        for node in range(len(self.tokens)):
            parent = self.parent(node)
            depths.append(1 if parent < 0 else depths[parent] + 1)
        return depths

    def reach(self) -> int:
        """How far the draft and the rows beside it stand from the last accepted token: what ``limit`` bounds."""
        depths = [0, *(range(1, len(self.tokens) + 1) if self.parents is None else self.depths())]
        ahead = [] if self.ahead is None else [depths[root] + k for root, k in zip(self.ahead.roots, self.ahead.orders)]
        return max(*depths, *ahead, 0)

    def pruned(self, kept: Sequence[int]) -> Self:
        """The draft with only the nodes at ``kept`` (increasing, every node's parent among them); what drafting cost
        stays, and a paused pass loses the other nodes."""
        if self.paused is not None and not self.paused.finished:
            self.paused.prune([0, *(node + 1 for node in kept)])
        place = {-1: -1, **{node: new for new, node in enumerate(kept)}}
        parents = None if self.parents is None else [place[self.parents[node]] for node in kept]
        ahead = self.ahead
        if ahead is not None:
            rows = [row for row, root in enumerate(ahead.roots) if root - 1 in place]
            roots = [1 + place[ahead.roots[row] - 1] for row in rows]
            ahead = replace(ahead, roots=roots, orders=[ahead.orders[row] for row in rows]) if rows else None
        return replace(
            self,
            tokens=[self.tokens[node] for node in kept],
            parents=parents,
            probabilities=None if self.probabilities is None else self.probabilities[list(kept)],
            confidence=None if self.confidence is None else [self.confidence[node] for node in kept],
            ahead=ahead,
            following=self.following if len(kept) == len(self.tokens) else None,
        )


@dataclass
class Verification:
    """What came of a draft.

    Attributes
    ----------
    draft : Draft
    path : list of int
        Nodes that were kept, from the first on.
    next_token : int
        The token after them, chosen by the model itself.
    logits : Tensor [1 + nodes, vocabulary]
        The model's logits after the last accepted token (row 0) and after every node; of a prefill only the last row.
    hidden : Tensor [1 + nodes, width]
        The residual stream after the last block, before the final norm, for the same tokens; of a prefill for every
        prompt token that reached it.
    ahead : Tensor [rows, vocabulary] or None
        Logits of the draft's lookahead rows; None if there were none or the pass ended before they entered.
    cache : KeyValueCache
        The verifying model's cache, rejected tokens gone. To be read, not changed.
    decoder : Decoder or None
        The decoder that verified. A drafter may open a pass of it for the next draft, which it hands over as
        ``Draft.paused``, or closes.
    """

    draft: Draft
    path: list[int]
    next_token: int
    logits: Tensor
    hidden: Tensor
    ahead: Tensor | None
    cache: KeyValueCache
    decoder: Decoder | None = None

    @property
    def tokens(self) -> list[int]:
        """Tokens that the step produces."""
        return [self.draft.tokens[node] for node in self.path] + [self.next_token]
