"""Acceptance keeps the target's distribution: shown by enumerating every outcome, not by sampling."""

import itertools

import pytest
import torch

from workbench.engine import Draft, Sampler
from workbench.engine.accept import accept
from workbench.engine.enumeration import distribution

VOCABULARY = 4
SETTINGS = [
    {"temperature": 0.0},
    {"temperature": 0.7},
    {"temperature": 1.0},
    {"temperature": 1.0, "top_p": 0.8},
    {"temperature": 0.7, "top_p": 0.6},
    {"temperature": 1.3, "top_k": 3},
]


def logits_after(prefix):
    """A fixed little language model: logits [vocabulary] after a prefix of tokens."""
    generator = torch.Generator().manual_seed(sum((token + 1) * 7**place for place, token in enumerate(prefix)) + 8)
    return 2.0 * torch.randn(VOCABULARY, generator=generator, dtype=torch.float64)


def draft_distribution_after(prefix):
    """What the drafter believes, [vocabulary]; it has no zero, and differs from the target."""
    generator = torch.Generator().manual_seed(sum((token + 2) * 5**place for place, token in enumerate(prefix)) + 3)
    return torch.rand(VOCABULARY, generator=generator, dtype=torch.float64).add(0.05).softmax(-1)


def verify(draft, sampler):
    """Path and next token of a draft under the little model."""
    logits = torch.stack([logits_after(draft.path_to(node)) for node in range(-1, len(draft.tokens))])
    path, token = accept(draft, logits, sampler)
    return [draft.tokens[node] for node in path] + [token]


def continue_to(tokens, length, sampler):
    """Extend by plain sampling up to ``length`` tokens, so that drafts of any acceptance compare."""
    tokens = list(tokens)
    while len(tokens) < length:
        tokens.append(sampler.choose(logits_after(tokens)))
    return tuple(tokens[:length])


def plain(length, settings):
    return distribution(lambda chance: continue_to([], length, Sampler(chance=chance, **settings)))


def assert_same_distribution(found, expected):
    assert sum(found.values()) == pytest.approx(1.0, abs=1e-6)
    for outcome in set(found) | set(expected):
        assert found.get(outcome, 0.0) == pytest.approx(expected.get(outcome, 0.0), abs=2e-6)


@pytest.mark.parametrize("settings", SETTINGS)
def test_chain_drawn_from_a_drafter_keeps_the_distribution(settings):
    def procedure(chance):
        sampler = Sampler(chance=chance, **settings)
        tokens, distributions = [], []
        for _ in range(2):
            distributions.append(draft_distribution_after(tokens))
            tokens.append(chance.draw(distributions[-1]))
        return continue_to(verify(Draft(tokens, None, torch.stack(distributions)), sampler), 3, sampler)

    assert_same_distribution(distribution(procedure), plain(3, settings))


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("tokens", list(itertools.product(range(VOCABULARY), repeat=2))[::3])
def test_chain_without_chance_keeps_the_distribution(settings, tokens):
    def procedure(chance):
        sampler = Sampler(chance=chance, **settings)
        return continue_to(verify(Draft(list(tokens)), sampler), 3, sampler)

    assert_same_distribution(distribution(procedure), plain(3, settings))


@pytest.mark.parametrize("settings", SETTINGS)
def test_tree_of_siblings_drawn_independently_keeps_the_distribution(settings):
    def procedure(chance):
        sampler = Sampler(chance=chance, **settings)
        root = draft_distribution_after([])
        siblings = [chance.draw(root), chance.draw(root)]
        below = draft_distribution_after([siblings[0]])
        child = chance.draw(below)
        draft = Draft([*siblings, child], [-1, -1, 0], torch.stack([root, root, below]))
        return continue_to(verify(draft, sampler), 3, sampler)

    assert_same_distribution(distribution(procedure), plain(3, settings))


@pytest.mark.parametrize("settings", SETTINGS)
def test_tree_without_chance_keeps_the_distribution(settings):
    def procedure(chance):
        sampler = Sampler(chance=chance, **settings)
        draft = Draft([2, 0, 3, 1], [-1, -1, 0, 1])
        return continue_to(verify(draft, sampler), 3, sampler)

    assert_same_distribution(distribution(procedure), plain(3, settings))


def test_greedy_walks_the_branch_that_the_model_takes():
    best = []
    for _ in range(3):
        best.append(int(logits_after(best).argmax()))
    wrong = (best[0] + 1) % VOCABULARY
    draft = Draft([wrong, best[0], best[1], (best[2] + 1) % VOCABULARY], [-1, -1, 1, 2])
    assert verify(draft, Sampler()) == best


def test_a_wrong_rule_would_be_seen():
    """Accepting every drafted token must fail the same comparison, or the comparison is worth nothing."""
    settings = {"temperature": 1.0}

    def procedure(chance):
        sampler = Sampler(chance=chance, **settings)
        return continue_to([chance.draw(draft_distribution_after([]))], 2, sampler)

    with pytest.raises(AssertionError):
        assert_same_distribution(distribution(procedure), plain(2, settings))
