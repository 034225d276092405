"""The search for layers that a text can do without, on losses that are known, and on a tiny model's."""

import itertools
import json
import math
import random

import pytest
import torch
from helpers import random_tokens

from workbench.engine.decoder import Decoder
from workbench.models.tiny import tiny
from workbench.parts.layer_router import REPEAT, RUN, SKIP, FixedChoices, windows_of
from workbench.training import _routes
from workbench.training._routes import Losses, Searching, Text, pooled_of, texts_of
from workbench.training.layer_router import balance, focal
from workbench.training.layer_search import _best, _Node, actions, search, shortest

TEXT = Text(tuple(random_tokens(13)), tuple(random_tokens(6, seed=4)))


def known(layers, seed):
    """A loss in which each layer, skipped or repeated, costs what it costs."""
    generator = random.Random(seed)
    cost = {(layer, times): generator.uniform(-0.02, 0.5) for layer in range(layers) for times in (SKIP, REPEAT)}
    return lambda choices: 1.0 + sum(cost.get((layer, times), 0) for layer, times in enumerate(choices))


def test_with_time_enough_it_finds_the_best_of_all():
    for seed in range(4):
        loss = known(5, seed)
        every = {(RUN,) * 5: loss((RUN,) * 5)}
        every |= {choices: loss(choices) for choices in itertools.product(range(3), repeat=5) if 0 < sum(choices) <= 5}
        found = search(loss, 5, simulations=1500, seed=seed)
        best, mine = shortest(every, 0.1), shortest(found, 0.1)
        assert sum(mine) == sum(best) and found[mine] <= loss((RUN,) * 5) + 0.1


def test_with_little_time_it_finds_more_than_chance():
    saved = []
    for seed in range(8):
        loss = known(20, seed)
        found = search(loss, 20, simulations=60, seed=seed)
        chance, drawn = random.Random(seed), {(RUN,) * 20: loss((RUN,) * 20)}
        while len(drawn) < len(found):
            choices = list((RUN,) * 20)
            for layer in chance.sample(range(20), chance.randint(1, 6)):
                choices[layer] = SKIP
            drawn[tuple(choices)] = loss(tuple(choices))
        saved.append([20 - sum(shortest(each, 0.25)) for each in (found, drawn)])
    mine, random_ones = (sum(column) / len(saved) for column in zip(*saved))
    assert mine > random_ones + 1


def test_it_keeps_to_the_budget_and_to_its_seed():
    looked = []

    def loss(choices):
        looked.append(choices)
        return known(8, 1)(choices)

    for budget in (1.0, 1.25, 2.0):
        looked.clear()
        found = search(loss, 8, simulations=80, penalty=0, budget=budget, seed=3)
        assert looked == list(found), "every configuration is run once"
        assert looked[0] == (RUN,) * 8 and len(looked) <= 81
        assert max(map(sum, looked)) <= budget * 8 and any(REPEAT in choices for choices in looked)
        assert search(loss, 8, simulations=80, penalty=0, budget=budget, seed=3) == found
    assert search(loss, 8, simulations=80, seed=4) != search(loss, 8, simulations=80, seed=3)


def test_the_shortest_that_keeps_the_answer_is_taken_and_of_two_the_better():
    losses = {(1, 1, 1): 1.0, (0, 1, 1): 1.3, (1, 0, 1): 1.2, (0, 0, 1): 1.6, (2, 0, 1): 0.5}
    assert shortest(losses, 0.0) == (2, 0, 1), "no more passes, and less loss"
    assert shortest(losses, 0.3) == (1, 0, 1)
    assert shortest(losses, 0.6) == (0, 0, 1)


def test_the_actions_are_skips_of_one_or_two_and_repeats():
    found = set(actions((1, 0, 1, 1, 2), most=5))
    assert found == {(0, 0, 1, 1, 2), (1, 0, 0, 1, 2), (1, 0, 1, 0, 2), (1, 0, 0, 0, 2)}
    assert (2, 0, 1, 1, 2) in set(actions((1, 0, 1, 1, 2), most=6))
    assert not set(actions((1,), most=1)), "a model has a layer"


def test_a_child_is_chosen_by_its_upper_bound():
    children = [_Node((1, 1, 0), [], visits=3, rewards=2.5), _Node((1, 0, 0), [], visits=5, rewards=2.0),
                _Node((2, 1, 1), [], visits=1, rewards=0.1)]  # fmt: skip
    node = _Node((1, 1, 1), [], children, visits=9)
    for exploration, penalty in itertools.product((0.0, 0.7, 3.0), (0.0, 1.0, 5.0)):
        bounds = [child.rewards / child.visits + exploration * math.sqrt(math.log(9) / child.visits)
                  - penalty * sum(child.choices) / 3 for child in children]  # fmt: skip
        assert _best(node, exploration, penalty) is children[bounds.index(max(bounds))]


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "mixtral"])
def test_a_loss_that_goes_on_from_another_is_the_loss(family, monkeypatch):
    """Also where few streams are held."""
    model = tiny(family, layers=4)
    ids = [*TEXT.prompt, *TEXT.answer]

    def slow(choices):
        rows = Decoder(model, policies={"depth": FixedChoices(choices)}).prefill(ids, logits="all").log_softmax(-1)
        places = range(len(TEXT.prompt) - 1, len(ids) - 1)
        return -sum(float(rows[place, ids[place + 1]]) for place in places) / len(TEXT.answer)

    for held in (512, 3):
        monkeypatch.setattr(_routes, "_HELD", held)
        losses = Losses(model, TEXT)
        for choices in [(1, 1, 1, 1), (1, 1, 0, 1), (1, 1, 0, 2), (1, 2, 0, 1), (0, 1, 1, 1), (1, 1, 0, 2)]:
            assert losses(choices) == pytest.approx(slow(choices), rel=1e-5), choices
            assert len(losses._streams) <= held
    plain = model.hf(torch.tensor([ids])).logits[0].log_softmax(-1)
    due = -sum(float(plain[place, ids[place + 1]]) for place in range(12, 18)) / 6
    assert losses((1, 1, 1, 1)) == pytest.approx(due, rel=1e-4)


def test_routers_read_the_prompt_alone_on_the_way_of_the_choices():
    model, choices = tiny("llama", layers=4), (1, 0, 1, 2)
    streams = {}

    class Seen(FixedChoices):
        """The stream after a layer: of one that comes twice, on its last visit."""

        def next_layer(self, layer, x):
            streams[layer] = x[0].clone()
            return super().next_layer(layer, x)

        def stretch(self, layer):
            return layer

    Decoder(model, policies={"depth": Seen(choices)}).prefill(TEXT.prompt)
    pooled = pooled_of(model, TEXT.prompt, choices, 3)
    assert pooled.shape == (4, 3, model.anatomy.width) and sorted(streams) == [-1, 0, 2, 3]
    for layer, stream in ((0, streams[-1]), (1, streams[0]), (2, streams[0]), (3, streams[2])):
        torch.testing.assert_close(pooled[layer], windows_of(stream, 3))


def test_texts_are_cut_to_where_the_answer_begins():
    tokens = torch.arange(1, 13).view(2, 6)
    answer = torch.tensor([[0, 0, 0, 1, 1, 0], [1, 1, 1, 0, 0, 0]], dtype=torch.bool)
    assert list(texts_of(tokens, answer, 9, 9)) == [((1, 2, 3), (4, 5)), ((7,), (8, 9))]
    assert list(texts_of(tokens, answer, 2, 1)) == [((2, 3), (4,)), ((7,), (8,))]


def test_what_was_found_is_kept_in_a_file(monkeypatch, tmp_path):
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path))
    how = Searching(2, 6, 1.8, 3.0, 1.0, 0.5, keep=True)
    first = how.route(tiny("llama"), TEXT)
    (file,) = tmp_path.glob("layer_router/*.json")
    assert len(json.loads(file.read_text("utf-8"))) >= 4
    monkeypatch.setattr(_routes, "search", None)
    again = how.route(tiny("llama"), TEXT)
    assert torch.equal(first.choices, again.choices) and first.lost == again.lost <= 0.5
    with pytest.raises(TypeError):
        how.route(tiny("gpt2"), TEXT)


def test_rare_choices_weigh_more_and_hard_ones_too():
    counts = torch.tensor([40, 900, 0], dtype=torch.int32)
    number = [(1 - 0.999**n) / (1 - 0.999) for n in (40, 900)]
    share = [1 / number[0], 1 / number[1]]
    weights = balance(counts, 0.999)
    due = [3 * value / sum(share) for value in share] + [0]
    torch.testing.assert_close(weights, torch.tensor(due), rtol=1e-4, atol=0)
    odds, right = torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(1)), torch.tensor([[0, 1, 1], [1, 0, 0]])
    total = 0.0
    for row, label in zip(odds.view(-1, 3).tolist(), right.view(-1).tolist()):
        chance = math.exp(row[label]) / sum(map(math.exp, row))
        total -= float(weights[label]) * (1 - chance) ** 2 * math.log(chance)
    assert float(focal(odds, right, weights, 2.0)) == pytest.approx(total / 6, rel=1e-5)
