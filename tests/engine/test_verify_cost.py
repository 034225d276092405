"""What forwards cost: measured or modelled, and never by a clock where a text would hang on it."""

from dataclasses import replace

import pytest
import torch

from workbench import generate
from workbench.engine import Run, Sampler, VerifyCost, verify_cost
from workbench.engine.verify_cost import _KNOWN, modelled_on, steady
from workbench.models.tiny import tiny
from workbench.techniques import Goodput, HydraHeads, PromptLookup, StreamingLLM

CHEAP, DEAR = VerifyCost([1, 64], [1.0, 1.01]), VerifyCost([1, 2, 64], [1.0, 50.0, 3000.0])
RECIPES = {
    "goodput": [PromptLookup(), Goodput()],
    "trained tree": [HydraHeads(weights="untrained", nodes=12)],
}


def written(recipe, cost, **settings):
    """Tokens, and how many were drafted, on a machine whose clock says ``cost``."""
    model = tiny("llama")
    _KNOWN.setdefault(model.anatomy, {})["measured", torch.get_num_threads()] = cost
    try:
        steps = list(generate(model, list(range(3, 15)) * 3, recipe, max_new_tokens=24, stop_tokens=(), **settings))
    finally:
        del _KNOWN[model.anatomy]["measured", torch.get_num_threads()]
    return [token for step in steps for token in step.tokens], sum(step.drafted for step in steps)


@pytest.mark.parametrize("name", RECIPES)
def test_a_sampled_text_does_not_hang_on_the_clock(name):
    cheap, dear = (written(RECIPES[name], cost, temperature=0.9, seed=5) for cost in (CHEAP, DEAR))
    assert cheap == dear and cheap[1] > 0


def test_nor_one_from_which_keys_are_evicted_between_tokens():
    recipe = [*RECIPES["trained tree"], StreamingLLM(window=8)]
    cheap, dear = (written(recipe, cost) for cost in (CHEAP, DEAR))
    assert cheap == dear and cheap[1] > 0


def test_a_greedy_one_may_draft_by_it():
    cheap, dear = (written(RECIPES["trained tree"], cost) for cost in (CHEAP, DEAR))
    assert cheap[0] == dear[0] and cheap[1] > dear[1]


def test_who_decides_by_the_clock():
    model = tiny("llama")
    greedy, sampled = (Run(model, (1,), 4, Sampler(each), 0) for each in (0.0, 0.8))
    assert [steady("measured", run) for run in (greedy, sampled)] == ["measured", "modelled"]
    assert steady("modelled", greedy) == "modelled"
    assert steady("measured", replace(greedy, stepwise=True)) == "modelled"
    assert modelled_on(torch.device("cpu")) is not modelled_on(torch.device("meta"))
    curve = verify_cost(model, "modelled")
    assert curve.ratio(64) >= curve.ratio(8) >= 1
