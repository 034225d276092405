"""Weights written out: against loops in float64, and in parts."""

import math

import pytest
import torch

from workbench.models import attention
from workbench.models.attention import Scoring

SHAPES = {"plain": {}, "capped": {"softcap": 1.2}, "sinks": {"sinks": torch.tensor([2.0, -1.0, 0.0, 30.0])}}


def drawn(tokens=5, keys=9):
    generator = torch.Generator().manual_seed(3)
    query = torch.randn(2, 4, tokens, 8, generator=generator)
    return query, *torch.randn(2, 2, 2, keys, 8, generator=generator)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("heads", [None, 2], ids=["one mask", "a mask for each KV head"])
def test_attending_is_the_definition(shape, heads):
    scoring = Scoring(0.4, **SHAPES[shape])
    query, keys, values = drawn()
    generator = torch.Generator().manual_seed(5)
    hidden = torch.rand(*([heads] if heads else []), 5, 9, generator=generator) < 0.4
    hidden[..., 0] = False
    found = scoring.attend(query, keys, values, hidden)
    for batch in range(2):
        for head in range(4):
            for token in range(5):
                total = 0.0 if scoring.sinks is None else math.exp(float(scoring.sinks[head]))
                out = torch.zeros(8, dtype=torch.float64)
                for key in range(9):
                    if hidden[token, key] if heads is None else hidden[head // 2, token, key]:
                        continue
                    score = 0.4 * float(query[batch, head, token].double() @ keys[batch, head // 2, key].double())
                    if scoring.softcap is not None:
                        score = scoring.softcap * math.tanh(score / scoring.softcap)
                    total += math.exp(score)
                    out += math.exp(score) * values[batch, head // 2, key].double()
                torch.testing.assert_close(found[batch, head, token].double(), out / total, rtol=1e-5, atol=1e-6)


def test_a_long_prompt_is_attended_in_parts(monkeypatch):
    scoring, (query, keys, values) = Scoring(0.4, 1.5, torch.zeros(4)), drawn(tokens=9)
    hidden = torch.ones(9, 9, dtype=torch.bool).triu(1)
    whole = scoring.attend(query, keys, values, hidden)
    monkeypatch.setattr(attention, "_SCORES", 2 * 4 * 9 * 2)
    torch.testing.assert_close(scoring.attend(query, keys, values, hidden), whole)
    assert not torch.allclose(whole, Scoring(0.4).attend(query, keys, values, hidden), atol=1e-2)


def test_gradients_pass_through_caps_and_sinks():
    query, keys, values = (tensor.double().requires_grad_() for tensor in drawn(2, 3))
    sinks = torch.tensor([0.5, -0.5, 1.0, 0.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda *given: Scoring(0.4, 1.5, given[-1]).attend(*given[:-1]), (query, keys, values, sinks)
    )
