"""Which candidates to verify when each has a chance, and how many when each has a price.

Source
------
A tree of the best products of chances, node by node: Cai et al., Medusa, 2024, arXiv 2401.10774. Its size by what a
verification costs on the hardware, and rows for later drafts where the text is likely to go on: Chen et al.,
Hardware-Aware Parallel Prompt Decoding, 2024, arXiv 2405.18628.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from workbench.engine import VerifyCost


@dataclass(frozen=True)
class Node:
    """A place in a tree.

    Attributes
    ----------
    parent : int
        Place of the parent, -1 for the root.
    depth : int
        From 1.
    rank : int
        Which of the tokens of its depth it is, from 0.
    chance : float
        That it is kept if its parent is.
    path : float
        That it is kept: the product of the chances down to it.
    """

    parent: int
    depth: int
    rank: int
    chance: float
    path: float


def best_nodes(chances: Sequence[Sequence[float]], most: int) -> list[Node]:
    """The ``most`` places with the largest products of chances, largest first, every parent before its children.

    Parameters
    ----------
    chances : sequence of sequence of float
        For each depth the chance of every rank, whatever the tokens above are; decreasing in the rank.
    most : int
    """
    nodes: list[Node] = []
    # Entries are ordered by chance, then by age; a sibling of the next rank enters when its elder leaves.
    heap: list[tuple[float, int, Node]] = []
    ages = itertools.count()

    def offer(parent: int, depth: int, rank: int) -> None:
        if depth <= len(chances) and rank < len(chances[depth - 1]):
            chance = chances[depth - 1][rank]
            path = chance * (nodes[parent].path if parent >= 0 else 1.0)
            heapq.heappush(heap, (-path, next(ages), Node(parent, depth, rank, chance, path)))

    offer(-1, 1, 0)
    while heap and len(nodes) < most:
        node = heapq.heappop(heap)[2]
        nodes.append(node)
        offer(node.parent, node.depth, node.rank + 1)
        offer(len(nodes) - 1, node.depth + 1, 0)
    return nodes


def by_rank(acceptance: Tensor) -> list[list[float]]:
    """Measured shares [depths, ranks] as lists that decrease with the rank, which few texts may not show."""
    return acceptance.float().sort(descending=True).values.tolist()


def ratios(cost: VerifyCost, most: int) -> list[float]:
    """Cost of 1 … ``most`` + 1 rows over that of one."""
    return [cost.ratio(rows) for rows in range(1, most + 2)]


def worth(paths: Sequence[float], ratio: Sequence[float]) -> int:
    """How many nodes to verify for the most tokens a second: the n that maximises (1 + E[accepted]) / cost(1 + n).

    Parameters
    ----------
    paths : sequence of float
        Chances that nodes are kept, largest first; E[accepted] of n nodes is the sum of the first n.
    ratio : sequence of float
        As :func:`ratios` gives them; at most ``len(ratio) - 1`` nodes are chosen.
    """
    best, chosen, expected = 1.0 / ratio[0], 0, 1.0
    for count, path in enumerate(paths[: len(ratio) - 1], 1):
        expected += path
        if expected / ratio[count] > best:
            best, chosen = expected / ratio[count], count
    return chosen


def row_values(acceptance: Sequence[Sequence[float]], ratio: Sequence[float]) -> list[float]:
    """What the k-th lookahead row of the token that a step ends with adds to the tokens of the next step, for k = 1 …

    Parameters
    ----------
    acceptance : sequence of sequence of float
        For each order the share of text on which every rank is right.
    ratio : sequence of float

    Returns
    -------
    list of float
        Expected tokens with a tree of k levels less those with one of k - 1, not increasing.
    """
    values: list[float] = []
    before = 0.0
    for orders in range(1, len(acceptance) + 1):
        paths = [node.path for node in best_nodes(acceptance[:orders], len(ratio) - 1)]
        expected = sum(paths[: worth(paths, ratio)])
        values.append(min(expected - before, values[-1] if values else float("inf")))
        before = expected
    return values


def nodes_and_rows(
    nodes: Sequence[Node], values: Sequence[float], ratio: Sequence[float], limit: int, share: float = 1.0
) -> tuple[int, list[tuple[int, int]]]:
    """How many nodes to verify, and which lookahead rows to run beside them.

    A row is worth something where the step ends at its root, which has the chance of the root less those of its
    children; then it is worth its value in the next step.

    Parameters
    ----------
    nodes : sequence of Node
        As :func:`best_nodes` gives them.
    values : sequence of float
        As :func:`row_values` gives them.
    ratio : sequence of float
        Nodes and rows together are at most ``len(ratio) - 1``.
    limit : int
        Depth of the root plus order is at most this.
    share : float
        Cost of a row over that of a node: rows that enter late pass fewer layers.

    Returns
    -------
    count : int
    rows : list of (root, order)
        Root 0 is the last accepted token, ``1 + node`` a node; sorted.
    """
    most = len(ratio) - 1
    ends, expected = [1.0], 1.0
    best, chosen = 0.0, (0, list[tuple[int, int]]())
    for count in range(min(len(nodes), most) + 1):
        if count:
            node = nodes[count - 1]
            expected += node.path
            ends[node.parent + 1] -= node.path
            ends.append(node.path)
        gains = [
            (end * value, -root, -order)
            for root, end in enumerate(ends)
            for order, value in enumerate(values, 1)
            if (nodes[root - 1].depth if root else 0) + order <= limit
        ]
        gains.sort(reverse=True)
        total = expected
        for rows in range(min(len(gains), most - count) + 1):
            if rows:
                total += gains[rows - 1][0]
            gained = total / ratio[min(most, round(count + share * rows))]
            if gained > best:
                best, chosen = gained, (count, [(-root, -order) for _, root, order in gains[:rows]])
    return chosen[0], sorted(chosen[1])
