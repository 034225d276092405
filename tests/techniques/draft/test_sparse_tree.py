"""Trees and their sizes against a search through all of them."""

import itertools

import pytest

from workbench.engine import VerifyCost
from workbench.techniques.draft._sparse_tree import best_nodes, nodes_and_rows, ratios, row_values, worth

CHANCES = [[0.6, 0.25, 0.1], [0.5, 0.3], [0.35, 0.2]]


def all_paths(chances):
    """Every node of the full tree as its ranks, and the product of its chances."""
    paths = {}
    for depth in range(1, len(chances) + 1):
        for ranks in itertools.product(*(range(len(row)) for row in chances[:depth])):
            product = 1.0
            for row, rank in zip(chances, ranks):
                product *= row[rank]
            paths[ranks] = product
    return paths


def ranks_of(nodes, place):
    node = nodes[place]
    return (*(ranks_of(nodes, node.parent) if node.parent >= 0 else ()), node.rank)


@pytest.mark.parametrize("most", [1, 2, 5, 9, 50])
def test_the_nodes_are_the_likeliest_and_make_a_tree(most):
    nodes, paths = best_nodes(CHANCES, most), all_paths(CHANCES)
    assert [node.path for node in nodes] == pytest.approx(sorted(paths.values(), reverse=True)[:most])
    for place, node in enumerate(nodes):
        assert node.parent < place
        assert node.path == pytest.approx(paths[ranks_of(nodes, place)])
        assert node.chance == CHANCES[node.depth - 1][node.rank]
        siblings = [other.rank for other in nodes[:place] if other.parent == node.parent]
        assert siblings == list(range(node.rank)), "siblings are tried in the order of their ranks"


def test_nothing_makes_no_tree():
    assert best_nodes([], 5) == [] and best_nodes(CHANCES, 0) == []


@pytest.mark.parametrize("slope", [0.0, 0.02, 0.1, 0.5, 2.0])
def test_the_size_gains_the_most_tokens_a_second(slope):
    ratio = ratios(VerifyCost([1, 40], [1.0, 1.0 + 39 * slope]), 16)
    paths = [node.path for node in best_nodes(CHANCES, 30)]
    gains = [(1 + sum(paths[:count])) / (1 + slope * count) for count in range(17)]
    assert worth(paths, ratio) == gains.index(max(gains))
    assert slope < 2 or worth(paths, ratio) == 0, "where rows cost much, none is worth it"


def test_a_further_row_is_worth_what_a_deeper_tree_adds():
    ratio = ratios(VerifyCost([1, 8], [1.0, 1.0]), 3)
    values = row_values([[0.5, 0.4], [0.9, 0.1]], ratio)
    # With three free nodes: one level keeps 0.9; two levels keep 0.5, 0.45 and 0.4.
    assert values == pytest.approx([0.9, 0.45])


@pytest.mark.parametrize("slope", [0.01, 0.05, 0.2])
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_nodes_and_rows_are_the_best_of_all_choices(slope, share):
    ratio = ratios(VerifyCost([1, 40], [1.0, 1.0 + 39 * slope]), 6)
    nodes, values, limit = best_nodes(CHANCES, 6), [0.7, 0.3], 3

    def gain(count, rows):
        ends = [1.0, *(node.path for node in nodes[:count])]
        for node in nodes[:count]:
            ends[node.parent + 1] -= node.path
        total = 1 + sum(node.path for node in nodes[:count])
        total += sum(ends[root] * values[order - 1] for root, order in rows)
        return total / ratio[round(count + share * len(rows))]

    best = 0.0
    for count in range(7):
        depths = [0, *(node.depth for node in nodes[:count])]
        pairs = [(r, o) for r in range(count + 1) for o in (1, 2) if depths[r] + o <= limit]
        for size in range(7 - count):
            for rows in itertools.combinations(pairs, size):
                if all(order == 1 or (root, order - 1) in rows for root, order in rows):
                    best = max(best, gain(count, rows))
    count, rows = nodes_and_rows(nodes, values, ratio, limit, share)
    assert gain(count, rows) == pytest.approx(best)
    assert rows == sorted(rows) and all(order == 1 or (root, order - 1) in rows for root, order in rows)
    assert all((nodes[root - 1].depth if root else 0) + order <= limit for root, order in rows)
