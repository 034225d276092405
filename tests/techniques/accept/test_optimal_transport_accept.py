"""The selection keeps the distribution (enumerated), accepts by its formula, and nearly as much as a linear program."""

import itertools

import pytest
import torch
from engine.test_accept import (
    SETTINGS,
    VOCABULARY,
    assert_same_distribution,
    continue_to,
    draft_distribution_after,
    logits_after,
    plain,
)
from helpers import random_tokens, run, tokens_of
from scipy.optimize import linprog

from workbench.engine import Draft, Sampler
from workbench.engine.accept import accept
from workbench.engine.enumeration import distribution
from workbench.models.tiny import tiny
from workbench.techniques import DraftModel, OptimalTransportAccept
from workbench.techniques.accept.optimal_transport_accept import _Selection, threshold


def chains(chance, paths, length, support=VOCABULARY):
    """``paths`` chains drawn independently, level by level, of the first ``support`` tokens."""
    tokens, parents, distributions = [], [], []
    for level in range(length):
        for _ in range(paths):
            parents.append(len(parents) - paths if level else -1)
            believed = draft_distribution_after(Draft(tokens, parents).path_to(parents[-1]))
            believed[support:] = 0
            distributions.append(believed / believed.sum())
            tokens.append(chance.draw(distributions[-1]))
    return Draft(tokens, parents, torch.stack(distributions))


def verified(draft, sampler, rule=None):
    logits = torch.stack([logits_after(draft.path_to(node)) for node in range(-1, len(draft.tokens))])
    path, token = (rule or _Selection(16).accept)(draft, logits, sampler)
    for node, parent in zip(path, [-1, *path]):
        assert draft.parent(node) == parent, "a path goes from parent to child"
    return [draft.tokens[node] for node in path], token


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize(("paths", "length", "support"), [(1, 2, 4), (2, 1, 4), (3, 1, 3), (2, 2, 2)])
def test_the_distribution_is_kept(settings, paths, length, support):
    def procedure(chance):
        sampler = Sampler(chance=chance, **settings)
        kept, token = verified(chains(chance, paths, length, support), sampler)
        return continue_to([*kept, token], length + 1, sampler)

    assert_same_distribution(distribution(procedure), plain(length + 1, settings))


def best(p, q, count):
    """Most that any rule accepts of ``count`` candidates, as a linear program over all couplings."""
    tuples = list(itertools.product(range(len(p)), repeat=count))
    weights = [float(torch.tensor([q[token] for token in each]).prod()) for each in tuples]
    size = len(p)
    gain = [-1.0 if token in each else 0.0 for each in tuples for token in range(size)]
    rows = [[float(at == here) for at in range(len(tuples)) for _ in range(size)] for here in range(len(tuples))]
    columns = [[float(token == wanted) for _ in tuples for token in range(size)] for wanted in range(size)]
    found = linprog(gain, A_eq=rows + columns, b_eq=[*weights, *p.tolist()], bounds=(0, None))
    return -found.fun


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("count", [1, 2, 3])
def test_it_accepts_what_the_formula_says_and_what_the_paper_guarantees(seed, count):
    generator = torch.Generator().manual_seed(seed)
    p, q = (torch.rand(3, generator=generator, dtype=torch.float64).pow(2).add(0.01) for _ in range(2))
    p, q = p / p.sum(), q / q.sum()

    def procedure(chance):
        draft = Draft([chance.draw(q) for _ in range(count)], [-1] * count, torch.stack([q] * count))
        logits = p.log()[None].expand(count + 1, -1)
        path, _ = _Selection(16).accept(draft, logits, Sampler(1.0, chance=chance))
        return len(path) > 0

    # The smallest rho on a fine grid for which nothing is accepted too often.
    grid = torch.linspace(1, count, 4001, dtype=torch.float64)
    beta = torch.minimum(q, p / grid[:, None]).sum(1)
    allowed = 1 - (1 - beta) ** count <= grid * beta + 1e-12
    rho = float(grid[allowed][0])
    assert threshold(p, q, count)[0] == pytest.approx(rho, abs=2 * count / 4000)
    accepted = distribution(procedure)[True]
    assert accepted == pytest.approx(float(1 - (1 - beta[allowed][0]) ** count), abs=2e-3)
    optimum = best(p, q, count)
    assert (1 - (1 - 1 / count) ** count) * optimum - 1e-6 <= accepted <= optimum + 1e-6


def test_only_so_many_candidates_are_tried():
    draft = Draft([0, 1], [-1, -1], torch.full((2, 4), 0.25))
    logits = torch.full((3, 4), -50.0)
    logits[:, 1] = 0.0
    assert (
        distribution(lambda chance: len(_Selection(1).accept(draft, logits, Sampler(1.0, chance=chance))[0]))[0] > 0.999
    )
    assert (
        distribution(lambda chance: len(_Selection(2).accept(draft, logits, Sampler(1.0, chance=chance))[0]))[1] > 0.4
    )


def test_candidates_with_the_same_token_all_go_on():
    """Two equal siblings, of which only the second has the right child: it is still found."""
    only = torch.tensor([0.0, 1.0, 0.0, 0.0])
    wrong = torch.tensor([0.5, 0.0, 0.5, 0.0])
    draft = Draft([1, 1, 0, 2], [-1, -1, 0, 1], torch.stack([only, only, wrong, wrong]))
    logits = torch.full((5, 4), -50.0)
    logits[0, 1] = logits[1, 2] = logits[2, 2] = logits[4, 3] = 0.0
    assert _Selection(16).accept(draft, logits, Sampler(1.0)) == ([1, 3], 3)


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_drafts_without_chance_and_greedy_ones_go_by_the_engine(temperature):
    draft = Draft([2, 0, 3, 1], [-1, -1, 0, 1])

    def said(rule):
        return distribution(lambda chance: str(verified(draft, Sampler(temperature, chance=chance), rule)))

    assert said(None) == said(accept)


def test_it_accepts_more_of_several_paths_than_the_engine_does_of_one():
    prompt = random_tokens(12)

    def rate(techniques):
        steps = [step for seed in range(4) for step in run(tiny("llama"), prompt, techniques, seed=seed, temperature=2)]
        return len(tokens_of(steps)) / len(steps)

    one = rate([DraftModel(model="/2", draft=2)])
    assert rate([DraftModel(model="/2", draft=2, paths=6), OptimalTransportAccept()]) > 1.1 * one


@pytest.mark.bundled
def test_more_candidates_are_kept_more_often_on_real_text(bundled):
    prompt = bundled.chat("Name three rivers in Europe.")

    def tokens_per_step(paths):
        techniques = [DraftModel(model="/0.8", draft=2, paths=paths), OptimalTransportAccept()]
        steps = run(bundled, prompt, techniques, temperature=1.0, new=12)
        return sum(step.accepted for step in steps) / len(steps)

    assert tokens_per_step(6) > tokens_per_step(1)
