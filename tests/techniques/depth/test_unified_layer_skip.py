"""Layers that run follow from the target alone; quality falls with it, and less than when they are cut off the end."""

from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch

from workbench.engine import generate, teacher_force
from workbench.models.model import evenly
from workbench.models.tiny import tiny
from workbench.techniques import UnifiedLayerSkip


@pytest.mark.parametrize(("speedup", "kept"), [(1.0, 30), (1.25, 24), (1.5, 20), (2.0, 15), (3.0, 10)])
def test_the_number_of_layers_follows_from_the_target(speedup, kept):
    layers = UnifiedLayerSkip(speedup=speedup).kept(30)
    assert len(layers) == kept and layers[0] == 0 and layers[-1] == 29
    gaps = [b - a for a, b in pairwise(layers)]
    assert max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize(
    ("order", "skipped"), [("early", {1, 2, 3}), ("middle", {4, 5, 6}), ("late", {7, 8, 9}), ("spread", {1, 5, 7})]
)
def test_as_many_layers_are_skipped_in_one_stretch(order, skipped):
    assert {*range(10)} - {*UnifiedLayerSkip(speedup=10 / 7, order=order).kept(10)} == skipped


@pytest.mark.parametrize("order", ["spread", "early", "middle", "late"])
@pytest.mark.parametrize("total", [2, 3, 7, 30])
def test_every_order_runs_the_same_number_and_is_neutral_at_one(total, order):
    for speedup in (1.0, 1.3, 2.0, 16.0):
        kept = UnifiedLayerSkip(speedup=speedup, order=order).kept(total)
        assert len(kept) == len(UnifiedLayerSkip(speedup=speedup).kept(total)) and kept == sorted({*kept})
        assert kept[0] == 0 and kept[-1] < total and (order == "late" or kept[-1] == total - 1)
    assert UnifiedLayerSkip(speedup=1.0, order=order).kept(total) == list(range(total))


@pytest.mark.parametrize("total", range(2, 40))
def test_evenly_gives_as_many_layers_as_asked(total):
    for kept in range(2, total + 1):
        assert len(evenly(total, kept)) == kept


def test_skipped_layers_hold_no_keys_and_are_not_run():
    model = tiny("llama", layers=6)
    steps = list(generate(model, list(range(3, 20)), [UnifiedLayerSkip(speedup=2.0)], max_new_tokens=6, stop_tokens=()))
    assert {step.layers for step in steps} == {(0, 2, 5)}
    assert [kept > 0 for kept in steps[-1].keys_kept] == [True, False, True, False, False, True]


def test_equals_a_model_that_has_only_those_layers():
    model = tiny("llama", layers=6)
    continuation = list(range(30, 40))
    skipped = torch.cat(list(teacher_force(model, [5, 6, 7], continuation, [UnifiedLayerSkip(speedup=2.0)])))
    cut = torch.cat(list(teacher_force(model.shallow(3), [5, 6, 7], continuation)))
    torch.testing.assert_close(skipped, cut)


def test_neighbouring_layers_run_in_one_compiled_call(monkeypatch):
    from workbench.engine import fused

    model, calls = tiny("llama", layers=7, dtype=torch.bfloat16), []
    technique = UnifiedLayerSkip(speedup=1.4)
    run = fused.FusedBlocks.run
    monkeypatch.setattr(
        fused.FusedBlocks,
        "run",
        lambda self, first, x, layers, *rest: calls.append((first, len(layers))) or run(self, first, x, layers, *rest),
    )
    texts = []
    policy = type(technique.start(SimpleNamespace(model=model)))
    for alone in (False, True):
        if alone:
            monkeypatch.setattr(policy, "stretch", lambda self, layer: layer)
        steps = generate(model, [5, 6, 7], [technique], max_new_tokens=5, stop_tokens=())
        texts.append([token for step in steps for token in step.tokens])
    kept = technique.kept(7)
    heads = [layer for layer in kept if layer - 1 not in kept]
    assert [first for first, _ in calls[: len(heads)]] == heads and sum(n for _, n in calls[: len(heads)]) == len(kept)
    assert len(heads) < len(kept) and texts[0] == texts[1]


@pytest.mark.bundled
def test_spread_skipping_hurts_less_than_cutting_off_the_last_layers(bundled):
    from workbench.tasks import encode_prompt, load_prompts

    spread, cut = [], []
    for prompt in load_prompts("summarising", limit=3):
        ids = encode_prompt(bundled.tokenizer, prompt)[:180]
        reference = torch.tensor(ids[101:])
        for order, losses in (("spread", spread), ("late", cut)):
            skip = UnifiedLayerSkip(speedup=1.25, order=order)
            logits = torch.cat(list(teacher_force(bundled, ids[:101], ids[101:], [skip])))
            losses.append(float(torch.nn.functional.cross_entropy(logits, reference[: len(logits)])))
    assert sum(spread) < sum(cut), (spread, cut)
