"""The two levels of joint exits against their sums, token by token, and that training makes them worth more."""

import dataclasses

import pytest
import torch
from techniques.trained_parts import own_text

from workbench.models.tiny import tiny
from workbench.parts.exits import load_lens, tuned_maps
from workbench.parts.exits.joint import SHARPNESS, features
from workbench.training import JointExit, train
from workbench.training import _forward as forward
from workbench.training.joint_exit import exit_costs


def batch(places=12):
    tokens = torch.randint(3, 96, (2, 24), generator=torch.Generator().manual_seed(4))
    return tokens, torch.ones(2, 24, dtype=torch.bool)


def recipe(**changed):
    return dataclasses.replace(JointExit.example(), places=12, **changed)


def begun(model, asked):
    part = asked.part(model)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        for parameter in part.parameters():
            parameter += 0.03 * torch.randn_like(parameter)
    return part


def by_hand(model, asked, part, tokens, answer):
    """(P, CE, cost, log-odds) of every place [places] and exit, in the order that the recipe draws them."""
    torch.manual_seed(0)
    text, place = forward.some_places(answer, asked.places)
    streams = forward.streams(model.anatomy, tokens, text, place)
    costs = exit_costs(model, part).tolist()
    rows = []
    for row in range(len(text)):
        label = int(model.anatomy.unembed(streams[-1][row]).argmax())
        left, chances, losses, odds = 1.0, [], [], []
        for exit, layer in enumerate(part.layers.tolist()):
            x = streams[layer + 1][row]
            moved = x + part.up[exit] @ (part.down[exit] @ x) + part.bias[exit]
            logits = model.anatomy.unembed(moved)
            read = features(logits[part.vocabulary.long()])
            odds.append(SHARPNESS * ((part.gate[exit] * read).sum() + part.offset[exit]))
            chances.append(float(odds[-1].detach().sigmoid()) * left)
            left -= chances[-1]
            losses.append(-logits.log_softmax(-1)[label])
        rows.append(([*chances, left], losses, odds))
    return rows, costs


def test_the_loss_is_the_paper_s_and_its_gradient_that_of_the_two_surrogates():
    model, (tokens, answer), asked = tiny("llama", layers=5), batch(), recipe(tradeoff=6.0)
    part = begun(model, asked)
    torch.manual_seed(0)
    loss, figures = asked.loss(model, part, tokens, answer)
    loss.backward()
    found = {name: value.grad.clone() for name, value in part.named_parameters()}
    part.zero_grad()
    rows, costs = by_hand(model, asked, part, tokens, answer)
    objective, modules, gates, best_exits = 0.0, 0.0, 0.0, []
    for chances, losses, odds in rows:
        price = [float(each.detach()) + 6.0 * cost for each, cost in zip([*losses, torch.zeros(())], costs)]
        best = price.index(min(price))
        best_exits.append(best)
        objective += sum(chance * each for chance, each in zip(chances, price)) / len(rows)
        modules = modules + sum(chance * each for chance, each in zip(chances, losses)) / len(rows)
        for exit, each in enumerate(odds):
            chance = each.sigmoid() if exit >= best else 1 - each.sigmoid()
            gates = gates - chance.log() / len(odds) / len(rows)
    assert float(loss.detach()) == pytest.approx(objective, rel=1e-4)
    assert figures["entropy_of_exits"] == pytest.approx(float(modules.detach()), rel=1e-4)
    assert figures["gates"] == pytest.approx(float(gates.detach()), rel=1e-4)
    own = {name: value for name, value in part.named_parameters()}
    for name, level in (("down", modules), ("up", modules), ("bias", modules), ("gate", gates), ("offset", gates)):
        (expected,) = torch.autograd.grad(level, own[name], retain_graph=True)
        torch.testing.assert_close(found[name], expected, rtol=1e-3, atol=1e-6)
    assert len(set(best_exits)) > 1


def test_who_leaves_is_counted():
    """Gates that are all open let every token leave at the first exit; gates that are shut, none."""
    model, (tokens, answer), asked = tiny("llama", layers=5), batch(), recipe()
    part = begun(model, asked)
    for offset, left, depth in ((9.0, 1.0, (int(part.layers[0]) + 1) / 5), (-9.0, 0.0, 1.0)):
        part.offset.data.fill_(offset)
        figures = asked.loss(model, part, tokens, answer)[1]
        assert figures["left"] == left and figures["depth"] == pytest.approx(depth)
        assert figures["cost"] == pytest.approx(float(exit_costs(model, part)[0 if left else -1]), abs=1e-4)
        assert (figures["accuracy"] == 1) == (not left)


def test_costs_are_operations_to_each_exit():
    model = tiny("llama", layers=5)
    part = recipe().part(model)
    anatomy, (rank, width) = model.anatomy, part.down[0].shape
    block, head, check = anatomy.blocks[0].flops(1), 2 * width * 96, 4 * width * rank + 2 * width * 32 + 9 * 32 + 8
    whole = 5 * block + 3 * check + head
    expected = [(2 * block + check + head) / whole, (3 * block + 2 * check + head) / whole]
    assert part.layers.tolist() == [1, 2, 3]
    torch.testing.assert_close(exit_costs(model, part)[:2], torch.tensor(expected))
    assert float(exit_costs(model, part)[-1]) == 1


def test_maps_begin_as_those_of_a_lens():
    model = tiny("llama", layers=5)
    part = recipe(lens="untrained").part(model)
    maps, x = tuned_maps(model, "untrained"), torch.randn(3, 4, model.anatomy.width)
    assert torch.equal(part.down, maps.down[[2, 3, 4]]) and torch.equal(part.bias, maps.bias[[2, 3, 4]])
    lens = load_lens(model, "untrained")
    for place, layer in enumerate((1, 2, 3)):
        torch.testing.assert_close(part(x)[place].detach(), lens.stream(x[place], layer))
    identity = recipe(lens="logit").part(model)
    assert torch.equal(identity(x).detach(), x)


def test_training_lowers_the_price_and_a_higher_tradeoff_leaves_earlier(tmp_path):
    costs = {}
    for tradeoff in (0.5, 4.0):
        card = train(
            "joint_exit", tiny("llama"), tmp_path, own_text(), evaluations=2, steps=120, batch=8, length=56,
            learning_rate=4e-3, lens="logit", rank=16, first=0.25, every=1, vocabulary=96, places=96, tradeoff=tradeoff,
        )  # fmt: skip
        first, *others = card["curve"]["held_out_loss"]
        assert min(others) < 0.97 * first
        costs[tradeoff] = card["result"]["held_out_cost"]
    assert costs[4.0] < costs[0.5] - 0.02
