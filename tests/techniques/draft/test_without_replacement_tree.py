"""Trees by Gumbel-top-k and by stochastic beam search against plain Gumbel numbers, and the output's distribution."""

import collections
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
from helpers import run, tokens_of
from little import LittleDrafter, verify

from workbench.engine import Chance, Draft, Run, Sampler
from workbench.engine.accept import accept
from workbench.engine.enumeration import distribution
from workbench.errors import SettingError
from workbench.models.tiny import tiny
from workbench.techniques import DraftModel, WithoutReplacementTree
from workbench.techniques.draft.without_replacement_tree import _Recursive, truncated_gumbel


def policy(sampler, support=4, **settings):
    return _Recursive(WithoutReplacementTree(width=0, **settings), LittleDrafter(support), sampler)


@pytest.mark.parametrize("settings", SETTINGS)
def test_branching_keeps_the_distribution(settings):
    def procedure(chance):
        sampler = Sampler(chance=chance, **settings)
        tree = policy(sampler, support=2, search="branching", branching="2-1", depth=2)
        return continue_to(verify(tree, tree.propose([], 2), sampler), 3, sampler)

    assert_same_distribution(distribution(procedure), plain(3, settings))


@pytest.mark.parametrize("noise", range(3))
@pytest.mark.parametrize("settings", SETTINGS)
def test_a_stochastic_beam_keeps_the_distribution_whatever_its_noise(settings, noise):
    """Which siblings stay is up to the noise, which is fixed here; the output has one distribution for any."""

    def procedure(chance):
        sampler = Sampler(chance=chance, **settings)
        tree = policy(sampler, support=3, search="beam", beam=2, depth=2)
        return continue_to(verify(tree, tree.propose([], 2), sampler), 3, sampler)

    assert_same_distribution(distribution(procedure, noise), plain(3, settings))


def plain_beams(beam, count):
    """Paths of two tokens kept by stochastic beam search, by its formula over the whole vocabulary, counted."""
    generator = torch.Generator().manual_seed(1)

    def gumbel():
        return -(-torch.rand(4, generator=generator, dtype=torch.float64).log()).log()

    found = collections.Counter()
    for _ in range(count):
        layer = [((), 0.0, 0.0)]
        for _ in range(2):
            grown = []
            for path, logarithm, noisy in layer:
                logs = logarithm + draft_distribution_after(list(path)).log()
                raw = logs + gumbel()
                top = raw.max()
                inner = noisy - raw + torch.log1p(-torch.exp(raw - top))
                inner[raw.argmax()] = -torch.inf
                shifted = noisy - inner.clamp(min=0) - torch.log1p(torch.exp(-inner.abs()))
                grown += [((*path, token), float(logs[token]), float(shifted[token])) for token in range(4)]
            layer = sorted(grown, key=lambda node: -node[2])[:beam]
        found[tuple(path for path, _, _ in layer)] += 1
    return found


def test_a_beam_has_the_distribution_of_gumbel_numbers_over_the_whole_vocabulary():
    count = 3000
    found = collections.Counter()
    tree = policy(Sampler(1.0, chance=Chance(3)), search="beam", beam=2, depth=2)
    for _ in range(count):
        draft = tree.propose([], 2)
        found[tuple(tuple(draft.path_to(node)) for node, depth in enumerate(draft.depths()) if depth == 2)] += 1
    expected = plain_beams(2, count)
    for path in itertools.product(range(4), repeat=2):
        # How often a path stays, and how often as the first; both have a deviation of at most 0.013.
        for place in (slice(0, 2), slice(0, 1)):
            ours, theirs = (
                sum(often for beam, often in each.items() if path in beam[place]) / count for each in (found, expected)
            )
            assert ours == pytest.approx(theirs, abs=0.045)


def test_a_truncated_gumbel_number_has_its_distribution():
    numbers = torch.tensor([truncated_gumbel(0.3, 0.9, (place + 0.5) / 4000) for place in range(4000)])
    assert float(numbers.max()) <= 0.9
    for level in (-0.5, 0.2, 0.7):
        expected = torch.exp(-torch.exp(torch.tensor(0.3 - level)) + torch.exp(torch.tensor(0.3 - 0.9)))
        assert float((numbers <= level).float().mean()) == pytest.approx(float(expected), abs=1e-3)


def probability(path):
    product = 1.0
    for place, token in enumerate(path):
        product *= float(draft_distribution_after(list(path[:place]))[token])
    return product


def test_greedy_trees_are_the_most_probable_tokens_and_the_plain_beam():
    draft = policy(Sampler(), search="branching", branching="3-2-1", depth=3).propose([], 5)
    assert [draft.depths().count(depth) for depth in (1, 2, 3)] == [3, 6, 6]
    for node in range(len(draft.tokens)):
        before = draft.path_to(draft.parent(node))
        siblings = [other for other in range(len(draft.tokens)) if draft.parent(other) == draft.parent(node)]
        order = draft_distribution_after(before).argsort(descending=True).tolist()
        assert [draft.tokens[other] for other in siblings] == order[: len(siblings)]
    draft = policy(Sampler(), search="beam", beam=3, depth=3).propose([], 5)
    layer = [()]
    for depth in (1, 2, 3):
        grown = [(*path, token) for path, token in itertools.product(layer, range(4))]
        layer = sorted(grown, key=probability, reverse=True)[:3]
        assert [tuple(draft.path_to(n)) for n, d in enumerate(draft.depths()) if d == depth] == layer


def test_limit_and_size_are_kept():
    assert max(policy(Sampler(), depth=4).propose([], 2).depths()) == 2
    assert policy(Sampler(), depth=4).propose([], 0).tokens == []
    model = tiny("llama")
    with pytest.raises(SettingError, match="at most 128"):
        WithoutReplacementTree(model="/2", search="branching", branching="9", depth=4).start(
            Run(model, (3, 4), 8, Sampler(), 0)
        )


@pytest.mark.parametrize("start", range(4))
def test_siblings_that_differ_are_accepted_more_often_than_ones_drawn_independently(start):
    """The paper's claim at equal nodes: none is spent on a token twice."""
    q, p = draft_distribution_after([start]), logits_after([start])

    def apart(chance):
        sampler = Sampler(1.0, chance=chance)
        tree = policy(sampler, search="branching", branching="3", depth=1)
        return len(tree.accept(tree.propose([start], 1), p.expand(4, -1), sampler)[0])

    def independent(chance):
        draft = Draft([chance.draw(q) for _ in range(3)], [-1] * 3, q.expand(3, -1))
        return len(accept(draft, p.expand(4, -1), Sampler(1.0, chance=chance))[0])

    assert distribution(apart)[1] > distribution(independent)[1] + 0.01


@pytest.mark.bundled
def test_a_beam_is_exact_on_real_text_and_shorter_than_a_chain(bundled):
    prompt = bundled.chat("Name three rivers in Europe.")
    beam = run(bundled, prompt, [WithoutReplacementTree(model="/0.8", beam=4, depth=3)], new=14)
    chain = run(bundled, prompt, [DraftModel(model="/0.8", draft=3)], new=14)
    assert tokens_of(beam) == tokens_of(chain) == tokens_of(run(bundled, prompt, new=14))
    assert len(beam) < len(chain)
