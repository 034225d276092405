"""The recipes of recursive models: what their losses are, what text they read, and that routing is learned."""

import dataclasses

import pytest
import torch
from torch.nn import functional as F

from workbench.models.tiny import tiny
from workbench.parts.recursive import Routed
from workbench.training import RECIPES, RecursionExpert, RecursionToken, TrainingData
from workbench.training.loop import Training
from workbench.training.recursion import tokenizer_of


@pytest.fixture(scope="module")
def data():
    """Texts in which every second token follows from the one before, and the others from nothing."""
    first = torch.randint(3, 90, (40, 12), generator=torch.Generator().manual_seed(1))
    tokens = torch.stack((first, (first * 7) % 90 + 3), 2).flatten(1).int()
    every = torch.ones_like(tokens, dtype=torch.bool)
    return TrainingData(tokens, every, torch.full((40,), 24), torch.arange(40) >= 34, {})


def training(kind, data, **settings):
    return Training(dataclasses.replace(kind.example(), **{"length": 96, **settings}), tiny("llama"), data)


def test_the_auxiliary_losses_are_their_formulas():
    generator = torch.Generator().manual_seed(0)
    real = torch.arange(9) < torch.tensor([[9], [6]])
    routed = Routed(real)
    routed.odds = torch.randn(2, 9, 3, generator=generator)
    probability = routed.odds[real].softmax(-1)
    chosen = torch.bincount(probability.argmax(-1), minlength=3) / len(probability)
    expected = 3 * sum(float(chosen[depth] * probability[:, depth].mean()) for depth in range(3))
    assert float(routed.balance()) == pytest.approx(expected, rel=1e-5)
    odds, taken = torch.randn(2, 9, generator=generator), torch.rand(2, 9, generator=generator) > 0.5
    routed.decided(0, odds, real, real)
    routed.decided(1, odds, real, taken & real)
    loss, foretold = routed.foretelling()
    assert float(loss) == pytest.approx(float(F.binary_cross_entropy_with_logits(odds[real], taken[real].float())))
    assert foretold == pytest.approx(float(((odds > 0) == taken)[real].float().mean()))


def test_it_reads_the_text_less_its_opening_in_tokens_of_its_own(data):
    made = training(RecursionExpert, data)
    model, part = made.model, made.part
    texts = {1: "<|im_start|>system\nAlways this<|im_end|>\n<|im_start|>user\nHi", 2: "Hi"}
    said = dataclasses.replace(model)
    said.decode = lambda tokens: texts[tokens[0]]
    answer = torch.tensor([[True, True], [True, False]])
    ids, real, size = made.recipe._own_tokens(said, part, torch.tensor([[1, 5], [2, 9]]), answer)
    tokenizer = tokenizer_of(part)
    for row, marks, text in zip(ids, real, ("<|im_start|>user\nHi", "Hi")):
        assert row[0] == 0 and tokenizer.decode(row[marks][1:].tolist(), skip_special_tokens=False) == text
    assert size == len("<|im_start|>user\nHiHi")


def test_training_takes_shares_and_what_is_held_out_is_judged_by_the_threshold(data):
    made = training(RecursionExpert, data, times=3, length=40)
    tokens, answer = data.tokens[:4].long(), data.answer[:4]
    made.part.train()
    assert made.recipe.loss(made.model, made.part, tokens, answer)[1]["layers"] == pytest.approx(2 + 2, abs=0.1)
    made.part.eval()
    with torch.no_grad():
        made.part.router.weight.zero_()
        found = made.recipe.loss(made.model, made.part, tokens, answer)[1]
        assert found["layers"] == pytest.approx(3), "even odds are not above a half"


@pytest.mark.parametrize("kind", [RecursionExpert, RecursionToken])
def test_some_steps_teach_it_the_text_and_its_router(kind, data):
    made = training(kind, data, steps=30, batch=8, width=32, neurons=48, learning_rate=1e-2)
    before = made.part.router.weight.clone()
    losses = [made.advance() for _ in range(30)]
    assert losses[-1] < 0.7 * losses[0]
    assert not torch.equal(made.part.router.weight, before)
    if kind is RecursionExpert:
        assert made.curve["foretold"][-1] > 0.6


def test_the_recipes_train_one_model_each():
    kinds = {name: (RECIPES[name].routing, RECIPES[name].keys) for name in RECIPES if name.startswith("recursion_")}
    assert kinds == {
        "recursion_fixed": ("fixed", "recursion"),
        "recursion_expert": ("expert", "recursion"),
        "recursion_shared": ("expert", "shared"),
        "recursion_token": ("token", "recursion"),
    }
