"""Recursive rejection: its distribution enumerated, how often it accepts by its formula, and trees that were pruned."""

import itertools

import pytest
import torch
from engine.test_accept import (
    SETTINGS,
    assert_same_distribution,
    continue_to,
    draft_distribution_after,
    logits_after,
    plain,
)
from little import LittleDrafter

from workbench.engine import Draft, Sampler
from workbench.engine.accept import accept
from workbench.engine.enumeration import distribution
from workbench.techniques.draft._without_replacement import GrowingTree, TreeWithoutReplacement, recursive_rejection


def grown(sampler, children, support=4):
    """A tree with so many children of the root, and of the first of these."""
    tree = GrowingTree(LittleDrafter(support), sampler, 0, [])
    for _ in range(children[0]):
        if tree.left(-1) > 0:
            tree.take(-1)
    if len(children) > 1:
        tree.open([0])
        for _ in range(children[1]):
            if tree.left(0) > 0:
                tree.take(0)
    return tree.draft()


def verify(draft, sampler):
    logits = torch.stack([logits_after(draft.path_to(node)) for node in range(-1, len(draft.tokens))])
    path, token = recursive_rejection(draft, logits, sampler)
    return [draft.tokens[node] for node in path] + [token]


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("children", [(1,), (3,), (4,), (2, 2)])
def test_the_distribution_is_kept(settings, children):
    length = len(children) + 1

    def procedure(chance):
        sampler = Sampler(chance=chance, **settings)
        return continue_to(verify(grown(sampler, children, 3 if len(children) > 1 else 4), sampler), length, sampler)

    assert_same_distribution(distribution(procedure), plain(length, settings))


def test_the_engine_s_rule_would_not_keep_it():
    """Siblings drawn without replacement but verified as if drawn independently: the comparison must notice."""

    def procedure(chance):
        sampler = Sampler(1.0, chance=chance)
        draft = grown(sampler, (3,))
        rows = torch.stack([draft_distribution_after([])] * 3).float()
        logits = torch.stack([logits_after(draft.path_to(node)) for node in range(-1, 3)])
        path, token = accept(Draft(draft.tokens, draft.parents, rows), logits, sampler)
        return continue_to([*[draft.tokens[node] for node in path], token], 2, sampler)

    with pytest.raises(AssertionError):
        assert_same_distribution(distribution(procedure), plain(2, {"temperature": 1.0}))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_it_accepts_as_often_as_the_recursion_says(count):
    def accepted(p, q, tries):
        """Chance that one of ``tries`` siblings is kept: the next one is x, kept or not, and then the others."""
        total = float(torch.minimum(p, q).sum())
        left = (p - q).clamp(min=0)
        if tries == 1 or left.sum() < 1e-12:
            return total
        for token in range(4):
            rejected = float((q[token] - p[token]).clamp(min=0))
            if rejected > 0:
                rest = q.clone()
                rest[token] = 0
                total += rejected * accepted(left / left.sum(), rest / rest.sum(), tries - 1)
        return total

    expected = accepted(logits_after([]).softmax(-1), draft_distribution_after([]), count)

    def procedure(chance):
        sampler = Sampler(1.0, chance=chance)
        return len(verify(grown(sampler, (count,)), sampler)) > 1

    assert distribution(procedure)[True] == pytest.approx(expected, abs=1e-5)


def test_siblings_come_as_the_largest_gumbel_numbers_do():
    """Drawing from what is left is the distribution of the order of Gumbel numbers: first the largest, and so on."""
    q = draft_distribution_after([])
    found = distribution(lambda chance: tuple(grown(Sampler(1.0, chance=chance), (3,)).tokens))
    for tokens in itertools.permutations(range(4), 3):
        expected, left = 1.0, 1.0
        for token in tokens:
            expected *= float(q[token]) / left
            left -= float(q[token])
        assert found[tokens] == pytest.approx(expected, abs=1e-6)
    noise = -(-torch.rand(40000, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64).log()).log()
    order = (q.log() + noise).argsort(-1, descending=True)[:, :3]
    often = (order == torch.tensor([2, 0, 1])).all(-1).double().mean()
    assert float(often) == pytest.approx(found[2, 0, 1], abs=0.01)


def test_a_pruned_tree_knows_what_its_nodes_were_drawn_from():
    tree = grown(Sampler(1.0), (3, 2))
    assert isinstance(tree, TreeWithoutReplacement)
    kept = tree.pruned([0, 1, 3])
    assert kept.tokens == [tree.tokens[0], tree.tokens[1], tree.tokens[3]] and kept.parents == [-1, -1, 0]
    assert kept.distribution_of == [tree.distribution_of[0], tree.distribution_of[1], tree.distribution_of[3]]
    assert kept.drawn == [tree.drawn[0], tree.drawn[1], tree.drawn[3]]
    assert isinstance(grown(Sampler(), (3, 2)).pruned([0]), Draft)


def test_greedy_children_are_the_most_probable_in_order():
    draft = grown(Sampler(), (4, 2))
    order = draft_distribution_after([]).argsort(descending=True).tolist()
    assert draft.tokens[:4] == order
    below = draft_distribution_after(order[:1])
    assert draft.tokens[4:] == below.argsort(descending=True)[:2].tolist()
    assert draft.confidence[4] == pytest.approx(float(below.max()), abs=1e-6)
    assert draft.parents == [-1, -1, -1, -1, 0, 0]
