"""Drafts from lookahead rows: what the rows of the last accepted token said becomes a tree, and its nodes get rows."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from workbench.engine import Draft, Lookahead, Verification, VerifyCost
from workbench.models import Model
from workbench.models.device import numbers, read
from workbench.parts.lookahead.base import LookaheadPart, position_shift
from workbench.techniques.draft._drafter import Drafter
from workbench.techniques.draft._sparse_tree import best_nodes, by_rank, nodes_and_rows, ratios, row_values
from workbench.techniques.draft._top_tokens import top_tokens


class LookaheadDrafter(Drafter):
    """A draft policy over lookahead rows.

    Parameters
    ----------
    part : LookaheadPart
        On the model's device and in its dtype.
    model : Model
        The one the part was trained for.
    cost : VerifyCost
    nodes : int
        Most nodes and rows of a verification.
    adaptive : bool
        Whether a node's chance is what its row says, or how often its rank is right in general.
    """

    def __init__(self, part: LookaheadPart, model: Model, cost: VerifyCost, nodes: int, adaptive: bool) -> None:
        self._part, self._model, self._adaptive = part.eval().requires_grad_(False), model, adaptive
        self._ratio = ratios(cost, nodes)
        # A tiny model has fewer tokens than a part has ranks.
        self._acceptance = by_rank(part.acceptance[:, : model.anatomy.vocabulary])
        self._values = row_values(self._acceptance, self._ratio)
        # Rows that enter late pass only the layers above.
        self._late = 1 - part.layer / model.layers
        self._tokens: list[list[int]] = []
        self._chances: list[list[float]] = []
        self._fixed: dict[tuple[int, int], tuple] = {}

    def verified(self, verification: Verification) -> None:
        self._tokens, self._chances = [], []
        ahead = verification.draft.ahead
        if verification.ahead is None or ahead is None:
            return
        last = verification.path[-1] + 1 if verification.path else 0
        rows = [row for row, root in enumerate(ahead.roots) if root == last]
        if rows:
            self._read(verification.ahead[numbers(rows, verification.ahead.device)])

    def propose(self, tokens: Sequence[int], limit: int) -> Draft:
        nodes, count, rows = self._tree(limit)
        if not count and not rows:
            return Draft()
        draft = Draft(
            [self._tokens[node.depth - 1][node.rank] for node in nodes[:count]],
            [node.parent for node in nodes[:count]],
            confidence=[node.chance for node in nodes[:count]],
        )
        if rows:
            roots, orders = [root for root, _ in rows], [order for _, order in rows]
            depths = [0, *draft.depths()]
            places = [len(tokens) - 1 + depths[root] + order for root, order in rows]
            draft.ahead = Lookahead(roots, orders, self._maker(places), self._part.layer)
        return draft

    def _read(self, logits: Tensor) -> None:
        """What rows [orders, vocabulary] of one root say."""
        places = top_tokens(logits, len(self._acceptance[0]))
        if self._adaptive:
            logits = logits.float()
            chances = (logits.gather(1, places) - logits.logsumexp(-1, keepdim=True)).exp()
            self._tokens, self._chances = read(places, chances)
        else:
            self._tokens = places.tolist()
            self._chances = self._acceptance[: len(self._tokens)]

    def _tree(self, limit: int) -> tuple[list, int, list[tuple[int, int]]]:
        """Nodes, how many of them to verify, and rows; without a view of the moment there are few such trees."""
        key = len(self._tokens), min(limit, 2 * self._part.orders)
        if not self._adaptive and key in self._fixed:
            return self._fixed[key]
        nodes = best_nodes(self._chances[:limit], len(self._ratio) - 1)
        count, rows = nodes_and_rows(nodes, self._values, self._ratio, limit, self._late)
        self._fixed[key] = nodes, count, rows
        return self._fixed[key]

    def _maker(self, places: list[int]):
        anatomy = self._model.anatomy
        shift = None
        if self._part.layer == 0:
            shift = position_shift(anatomy, numbers(places, anatomy.device))

        def make(x: Tensor, orders: list[int]) -> Tensor:
            rows = self._part.rows(x, orders)
            return rows if shift is None else rows + shift

        return make
