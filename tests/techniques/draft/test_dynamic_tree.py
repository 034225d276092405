"""The tree against a search over all paths and against the paper's loop, its distribution enumerated, its forwards."""

import itertools

import pytest
from engine.test_accept import SETTINGS, assert_same_distribution, continue_to, draft_distribution_after, plain
from helpers import random_tokens, run, tokens_of
from little import LittleDrafter, verify

from workbench.engine import Chance, Sampler
from workbench.engine.enumeration import distribution
from workbench.models.tiny import tiny
from workbench.techniques import DraftModel, DynamicTree
from workbench.techniques.draft.dynamic_tree import _Grower

EAGER = {"threshold": 0.0, "deepen": 0.0, "forwards": 32, "width": 0}


def grower(sampler, drafter=None, **settings):
    return _Grower(DynamicTree(**settings), drafter or LittleDrafter(), sampler)


def worth(path):
    product = 1.0
    for place, token in enumerate(path):
        product *= float(draft_distribution_after(path[:place])[token])
    return product


@pytest.mark.parametrize("budget", [1, 4, 9, 20])
def test_a_greedy_tree_has_the_most_probable_of_all_paths(budget):
    draft = grower(Sampler(), budget=budget, **EAGER).propose([], 3)
    paths = [path for depth in (1, 2, 3) for path in itertools.product(range(4), repeat=depth)]
    expected = sorted(paths, key=worth, reverse=True)[:budget]
    assert {tuple(draft.path_to(node)) for node in range(budget)} == set(expected)
    for node in range(budget):
        assert draft.confidence[node] == pytest.approx(
            worth(draft.path_to(node)) / worth(draft.path_to(draft.parent(node))), abs=1e-6
        )


def slowly(budget, limit, chance):
    """The paper's loop: one candidate, one draw and one run of the drafter at a time."""
    candidates, paths = [(1.0, (), draft_distribution_after([]).float())], []
    while len(paths) < budget:
        best = max(range(len(candidates)), key=lambda place: candidates[place][0])
        value, path, left = candidates.pop(best)
        token = chance.draw(left / left.sum())
        paths.append((*path, token))
        chosen = value * float(left[token] / left.sum())
        left = left.clone()
        left[token] = 0
        candidates.append((value - chosen, path, left))
        if len(path) + 1 < limit:
            candidates.append((chosen, (*path, token), draft_distribution_after([*path, token]).float()))
    return paths


def test_a_sampled_tree_has_the_distribution_of_the_paper_s_loop():
    def grown(chance):
        draft = grower(Sampler(1.0, chance=chance), budget=4, **EAGER).propose([], 3)
        return tuple(tuple(draft.path_to(node)) for node in range(4))

    found, expected = distribution(grown), distribution(lambda chance: tuple(slowly(4, 3, chance)))
    assert len(found) > 50
    assert_same_distribution(found, expected)


def test_distributions_come_together():
    technique = grower(Sampler(), budget=30, **EAGER)
    technique.propose([], 4)
    assert technique._drafter.forwards == 4, "greedy: one forward for each level"
    technique = grower(Sampler(1.0, chance=Chance(1)), budget=30, **EAGER)
    technique.propose([], 4)
    assert technique._drafter.forwards < 15, "sampled: several nodes wait for one forward"


@pytest.mark.parametrize("growth", ["greedy", "layers"])
@pytest.mark.parametrize("settings", SETTINGS)
def test_the_distribution_is_kept(settings, growth):
    def procedure(chance):
        sampler = Sampler(chance=chance, **settings)
        policy = grower(sampler, LittleDrafter(3), budget=4, growth=growth, **EAGER)
        return continue_to(verify(policy, policy.propose([], 2), sampler), 3, sampler)

    assert_same_distribution(distribution(procedure), plain(3, settings))


def test_layers_take_all_above_the_threshold_and_one_forward_each():
    technique = grower(Sampler(), budget=64, growth="layers", **{**EAGER, "threshold": 0.08})
    draft = technique.propose([], 3)
    paths = [path for depth in (1, 2, 3) for path in itertools.product(range(4), repeat=depth)]
    assert {tuple(draft.path_to(node)) for node in range(len(draft.tokens))} == {p for p in paths if worth(p) >= 0.08}
    # The last level was looked at, and had nothing above the threshold.
    assert technique._drafter.forwards == max(draft.depths()) + 1


@pytest.mark.parametrize("growth", ["greedy", "layers"])
def test_budget_forwards_and_limit_are_kept(growth):
    for settings, most in (({"budget": 5}, 5), ({"forwards": 1}, 4), ({"deepen": 1.0}, 4), ({"threshold": 0.99}, 0)):
        technique = grower(Sampler(), growth=growth, **{**EAGER, "budget": 30, **settings})
        assert len(technique.propose([], 3).tokens) == most
        assert technique._drafter.forwards <= settings.get("forwards", 32)
    assert max(grower(Sampler(), budget=30, growth=growth, **EAGER).propose([], 2).depths()) == 2
    assert grower(Sampler(), budget=30, growth=growth, **EAGER).propose([], 0).tokens == []


def test_a_perfect_drafter_is_accepted_as_deep_as_it_went():
    for step in run(tiny("llama"), random_tokens(12), [DynamicTree(model="/1.0", budget=8)])[1:-2]:
        assert step.accepted >= 1
        deepest = max(place for place, node in enumerate(step.nodes) if node[2])
        assert step.accepted == sum(node[2] for node in step.nodes) and step.nodes[deepest][2]


@pytest.mark.bundled
def test_a_tree_is_exact_on_real_text_and_gets_further_than_a_chain_of_as_many_tokens(bundled):
    prompt = bundled.chat("Name three rivers in Europe.")
    plain_tokens = tokens_of(run(bundled, prompt, new=12))
    tree = run(bundled, prompt, [DynamicTree(model="/0.8", budget=12)], new=12)
    chain = run(bundled, prompt, [DraftModel(model="/0.8", draft=12)], new=12)
    assert tokens_of(tree) == tokens_of(chain) == plain_tokens
    assert len(tree) < len(chain)
    assert max(step.drafted for step in tree) == 12
