"""Ways of a token: each loses what the whole model loses with its MLPs changed by hand; the oracle finds the best."""

import itertools
from types import SimpleNamespace

import pytest
import torch
from helpers import random_tokens
from toys.recurrent import with_recurrent_layers

from workbench.errors import SettingError
from workbench.models import FAMILIES
from workbench.models.tiny import tiny
from workbench.models.walk import causal, walk
from workbench.parts.neuron_predictor import read_of
from workbench.parts.small_big import BIG, NONE, SMALL, router_maps, small_mlps
from workbench.parts.small_big.oracle import oracle
from workbench.parts.small_big.paths import Paths
from workbench.parts.small_big.routers import choose

TEXT = random_tokens(11, seed=3)
DENSE = [family for family in FAMILIES if any(block.down is not None for block in tiny(family).anatomy.blocks)]


@torch.no_grad()
def slow_loss(model, small, place, way):
    """The whole text, read anew: the MLP of the token at ``place`` alone is replaced, layer by layer."""
    tokens, anatomy = torch.tensor(TEXT), model.anatomy

    def replaced(block):
        def stand_in(x):
            added = block.mlp_sublayer(x[None])[0]
            if way[block.index] == NONE:
                added[place] = 0
            elif way[block.index] == SMALL:
                normed = read_of(block, x[place])
                maps = small[block.index]
                inner = maps.up.weight @ normed + maps.up.bias
                added[place] = maps.down.weight @ block.activation(inner, block.gated) + maps.down.bias
            return torch.empty(0, dtype=torch.long), added

        return SimpleNamespace(stand_in=stand_in)

    positions = torch.arange(len(tokens))
    x = walk(
        anatomy.blocks, anatomy.embed(tokens[None], positions), anatomy.rope(positions), causal, choose=replaced
    )  # fmt: skip
    return -anatomy.unembed(x[0, place]).float().log_softmax(-1)[TEXT[place + 1]]


@pytest.mark.parametrize("family", DENSE)
def test_a_way_loses_what_the_model_loses_with_its_mlps_replaced(family):
    model = tiny(family)
    small = small_mlps(model, "untrained")
    paths = Paths.of(model, small, torch.tensor(TEXT))
    generator = torch.Generator().manual_seed(1)
    ways = torch.randint(0, 3, (5, model.layers), generator=generator)
    ways[0], ways[1, -1] = BIG, 0
    for place in (0, 6, 9):
        want = torch.stack([slow_loss(model, small, place, way.tolist()) for way in ways])
        torch.testing.assert_close(paths.losses(place, ways), want, rtol=1e-3, atol=1e-4)


def test_ways_that_agree_are_computed_once(monkeypatch):
    model = tiny("llama")
    paths = Paths.of(model, small_mlps(model, "untrained"), torch.tensor(TEXT))
    rows, added = [], Paths._added
    monkeypatch.setattr(Paths, "_added", lambda self, *given: rows.append(len(given[1])) or added(self, *given))
    ways = torch.tensor(list(itertools.product(range(3), repeat=model.layers)))
    paths.losses(5, ways)
    assert rows == [3**layer for layer in range(1, model.layers + 1)]


def test_a_model_whose_layers_carry_a_state_is_refused():
    model = with_recurrent_layers(tiny("llama"))
    with pytest.raises(SettingError, match="carry a state from token to token"):
        Paths.of(model, small_mlps(model, "untrained"), torch.tensor(TEXT))


def made_up(layers, seed):
    """A loss of ways that is not a sum over layers."""
    table = torch.randn(3**layers, generator=torch.Generator().manual_seed(seed)) ** 2
    powers = 3 ** torch.arange(layers)
    return lambda ways: table[(ways[:, :layers] * powers).sum(1)]


def test_all_ways_are_tried_over_few_layers():
    loss, searched = made_up(5, 0), [0, 2, 3]
    losses, ways = oracle(loss, 5, searched, [0, 1, 3], beam=1)
    every = [way for way in itertools.product(range(3), repeat=5) if way[1] == way[4] == BIG]
    for budget, found, way in zip((0, 1, 3), losses, ways, strict=True):
        allowed = [each for each in every if sum(each[place] == BIG for place in searched) <= budget]
        assert float(found) == min(float(loss(torch.tensor([each]))) for each in allowed)
        assert float(loss(way[None])) == float(found)
    assert losses.tolist() == sorted(losses.tolist(), reverse=True)


def test_a_beam_keeps_to_the_budget_and_a_wide_one_finds_the_best():
    layers, budgets = 8, [0, 1, 3, 6, 8]
    loss = made_up(layers, 1)
    every = torch.tensor(list(itertools.product(range(3), repeat=layers)))
    all_losses, big = loss(every), (every == BIG).sum(1)
    narrow, ways = oracle(loss, layers, range(layers), budgets, beam=1)
    wide, _ = oracle(loss, layers, range(layers), budgets, beam=2000)
    for place, budget in enumerate(budgets):
        best = all_losses[big <= budget].min()
        assert int((ways[place] == BIG).sum()) <= budget and loss(ways[place : place + 1]) == narrow[place]
        assert best <= narrow[place]
        # From all small one more round of leaving out follows at each number, from all big each is reached.
        assert wide[place] <= narrow[place]
    assert wide[2] < narrow[2] and wide[3] == all_losses[big <= 6].min()
    additive = torch.randn(layers, 3, generator=torch.Generator().manual_seed(5))
    additive[:, BIG], additive[:, NONE] = -additive[:, BIG].abs(), additive[:, SMALL] + 1
    summed, _ = oracle(lambda ways: additive.gather(1, ways.T).sum(0), layers, range(layers), [3, 6], beam=1)
    gains = (additive[:, SMALL] - additive[:, BIG]).clamp(min=0).sort(descending=True).values
    expected = [float(additive[:, SMALL].sum() - gains[:count].sum()) for count in (3, 6)]
    assert summed.tolist() == pytest.approx(expected, abs=1e-5), "what adds up is found one layer at a time"


def test_big_is_taken_above_the_chance_and_the_likelier_of_the_others_below():
    odds = torch.tensor([[0.0, 0.0, 1.0], [2.0, 1.0, 0.0], [1.0, 2.0, 2.9], [0.0, 0.0, -9.0]])
    shares = odds.softmax(-1)
    for chance in (0.1, 0.5, 0.7):
        want = [BIG if row[2] > chance else NONE if row[0] > row[1] else SMALL for row in shares.tolist()]
        assert choose(odds, chance).tolist() == want
    assert choose(odds[:1].expand(2, -1), torch.tensor([0.4, 0.9])).tolist() == [BIG, SMALL]


def test_parts_of_another_model_do_not_fit():
    model = tiny("llama")
    assert len(small_mlps(model, "untrained")) == len(router_maps(model, "untrained")) == model.layers
    with pytest.raises(SettingError, match="no dense MLP"):
        router_maps(tiny("mixtral"), "untrained")
