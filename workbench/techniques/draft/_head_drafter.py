"""Drafts from trained heads: the policy that follows the features and grows a tree level by level."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workbench.engine import Draft, LayerCache, Verification, VerifyCost
from workbench.models import Model
from workbench.models.device import numbers, read
from workbench.parts.heads.base import DraftHeads
from workbench.techniques.draft._drafter import Drafter
from workbench.techniques.draft._sparse_tree import best_nodes, by_rank, ratios, worth

# Paths that the next head is asked for; they are one product, and beyond a few they are seldom right.
_PATHS = 6


class HeadDrafter(Drafter):
    """A draft policy over heads.

    Parameters
    ----------
    heads : DraftHeads
        On the model's device and in its dtype.
    model : Model
        The one the heads were trained for.
    cost : VerifyCost
    nodes : int
        Most nodes of a tree.
    adaptive : bool
        Whether a node's chance is what its head says now, or how often its rank is right in general.
    reserve : int
        Tokens to make room for after the prompt.
    """

    def __init__(
        self, heads: DraftHeads, model: Model, cost: VerifyCost, nodes: int, adaptive: bool, reserve: int = 0
    ) -> None:
        self.heads = heads.eval().requires_grad_(False)
        self._model, self._adaptive = model, adaptive
        self._ratio = ratios(cost, nodes)
        self._acceptance = by_rank(heads.acceptance)
        self._ids = ids = heads.draft_vocabulary(model)
        self._unembedding = model.anatomy.unembedding[ids].contiguous()
        bias = model.anatomy.unembedding_bias
        self._bias = None if bias is None else bias[ids]
        self._rows = heads.token_rows(model)
        self._multiply = model.anatomy.multiply
        _multiply_with(self._multiply, heads)
        self._memory = LayerCache(reserve)
        self._feature: Tensor | None = None
        self._position = 0
        trained = sum(parameter.numel() for parameter in heads.parameters())
        # What one head multiplies, the unembedding included, and its share of what a forward of the model does.
        self._elements = self._unembedding.numel() + trained // heads.heads
        self._share = self._elements / sum(parameter.numel() for parameter in model.hf.parameters())

    def verified(self, verification: Verification) -> None:
        kept = verification.hidden
        if verification.draft.tokens:
            kept = kept[numbers([0, *(node + 1 for node in verification.path)], kept.device)]
        if kept.shape[-1] != self.heads.width:
            self._feature = None
            return
        features = self._model.anatomy.final_norm(kept)
        self.heads.remember(self._memory, features, verification.cache.length - len(features))
        self._feature, self._position = features[-1:], verification.cache.length - 1

    def propose(self, tokens: Sequence[int], limit: int) -> Draft:
        depth = min(self.heads.heads, limit)
        if self._feature is None or depth < 1:
            return Draft()
        return self._at_once(tokens, depth) if self.heads.independent else self._level_by_level(tokens, depth)

    def _at_once(self, tokens: Sequence[int], depth: int) -> Draft:
        """All heads in one product, their tokens combined by a tree."""
        state = self._begin(tokens)
        rows = [self.heads.step(self._memory, level, state, self._feature, 0)[0] for level in range(1, depth + 1)]
        drafted, chances = self._top(torch.cat(rows), range(1, depth + 1))
        nodes = best_nodes(chances, len(self._ratio) - 1)
        nodes = nodes[: worth([node.path for node in nodes], self._ratio)]
        flops, moved = self._counted(depth, depth)
        return Draft(
            [drafted[node.depth - 1][node.rank] for node in nodes],
            [node.parent for node in nodes],
            flops=flops,
            bytes=moved,
            confidence=[node.chance for node in nodes],
        )

    def _level_by_level(self, tokens: Sequence[int], depth: int) -> Draft:
        """Each head in one product for the likeliest paths so far."""
        state, newest = self._begin(tokens), [tokens[-1]]
        made: list[tuple[int, int, float, float]] = []  # token, parent, chance, path
        frontier, asked, level = [(-1, 1.0)], 0, 0
        # A head can gain no more tokens than the chance that its paths are right.
        while level < depth and sum(path for _, path in frontier) > self._share:
            level += 1
            embeddings = F.embedding(numbers(newest, self._rows.device), self._rows)
            rows, state = self.heads.step(self._memory, level, state, embeddings, self._position + level)
            asked += len(newest)
            drafted, chances = self._top(rows, [level] * len(newest))
            first = len(made)
            for (parent, path), these, their in zip(frontier, drafted, chances):
                made += [(token, parent, chance, path * chance) for token, chance in zip(these, their)]
            ranks = len(drafted[0])
            best = heapq.nlargest(_PATHS, range(first, len(made)), key=lambda place: made[place][3])
            frontier = [(place, made[place][3]) for place in best]
            newest = [made[place][0] for place in best]
            chosen = numbers([(place - first) // ranks for place in best], self._rows.device)
            state = tuple(each[chosen] for each in state)
        # A parent is never less likely than its child and stands before it, so the best are a tree.
        order = sorted(range(len(made)), key=lambda place: -made[place][3])
        kept = sorted(order[: worth([made[place][3] for place in order], self._ratio)])
        place = {-1: -1, **{old: new for new, old in enumerate(kept)}}
        flops, moved = self._counted(asked, level)
        return Draft(
            [made[old][0] for old in kept],
            [place[made[old][1]] for old in kept],
            flops=flops,
            bytes=moved,
            confidence=[made[old][2] for old in kept],
        )

    def _begin(self, tokens: Sequence[int]) -> tuple[Tensor, ...]:
        before = list(tokens[-3:-1])
        recent = F.embedding(numbers(before, self._rows.device), self._rows).flatten()
        recent = F.pad(recent, (2 * self.heads.width - len(recent), 0))[None]
        return self.heads.begin(self._memory, self._feature, self._position, recent)

    def _top(self, rows: Tensor, depths: Sequence[int]) -> tuple[list[list[int]], list[list[float]]]:
        """The likeliest tokens of every row, and the chance of each."""
        logits = self._model.anatomy.finish(self._multiply(rows, self._unembedding, self._bias))
        places = logits.topk(self.heads.acceptance.shape[1]).indices
        tokens = self._ids[places]
        if not self._adaptive:
            return tokens.tolist(), [self._acceptance[depth - 1] for depth in depths]
        logits = logits.float()
        tokens, chances = read(tokens, (logits.gather(1, places) - logits.logsumexp(-1, keepdim=True)).exp())
        return tokens, chances

    def _counted(self, rows: int, passes: int) -> tuple[int, int]:
        """Operations and bytes of so many rows in so many passes."""
        item = self._unembedding.element_size()
        unembedded = self._unembedding.numel() * item
        read = passes * self._elements * item
        if self.heads.independent:
            # The unembedding is read once for all heads.
            read -= (passes - 1) * unembedded
        return 2 * rows * self._elements, read


def _multiply_with(multiply: Callable[..., Tensor], heads: DraftHeads) -> None:
    """The model's product serves the heads' own linear maps from now on."""
    for linear in (each for each in heads.modules() if isinstance(each, nn.Linear)):
        linear.forward = partial(_product, multiply, linear)  # type: ignore[method-assign]


def _product(multiply: Callable[..., Tensor], linear: nn.Linear, x: Tensor) -> Tensor:
    return multiply(x, linear.weight, linear.bias)
