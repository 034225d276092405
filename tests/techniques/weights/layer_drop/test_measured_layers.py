"""Losses against models that were cut, and searches against loops over them."""

import itertools

import pytest
import torch
from helpers import random_tokens

from workbench.engine import score
from workbench.errors import SettingError
from workbench.models.removed import without
from workbench.models.tiny import tiny
from workbench.techniques.weights.layer_drop import measured
from workbench.techniques.weights.layer_drop.calibration import Unit, units
from workbench.techniques.weights.layer_drop.measured import exhaustive, greedy, losses

TEXTS = [random_tokens(9), random_tokens(14, seed=2)]
MEASURES = ["loss", "divergence"]


def slow(model, removed, measure):
    parts = {}
    for layer, part in removed:
        parts.setdefault(layer, set()).update({"attention", "mlp"} if part == "block" else {part})
    blocks = model.anatomy.blocks
    cut = model.variant(
        replace={layer: without(blocks[layer], **dict.fromkeys(each, True)) for layer, each in parts.items()}
    )
    total = 0.0
    for text, rows, whole in zip(TEXTS, score(cut, TEXTS), score(model, TEXTS), strict=True):
        if measure == "loss":
            total += len(text) * float(torch.nn.functional.cross_entropy(rows[:-1], torch.tensor(text[1:])))
            continue
        for p, q in zip(rows.softmax(-1), whole.softmax(-1)):
            middle = (p + q) / 2
            total += float(((p * (p / middle).log()).sum() + (q * (q / middle).log()).sum()) / 2)
    return total / sum(map(len, TEXTS))


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt2", "gpt_neox", "mixtral"])
def test_a_loss_is_that_of_the_model_without_them(family, measure):
    model, base = tiny(family), frozenset([Unit(1, "mlp")])
    sets = [base | {unit} for unit in units(model, "sublayer") if unit not in base] + [base, base | {Unit(2, "block")}]
    ticks = []
    found = losses(model, TEXTS, base, sets, measure, lambda: ticks.append(1))
    assert found == pytest.approx([slow(model, each, measure) for each in sets], abs=1e-4)
    assert len(ticks) == len(sets) * len(TEXTS)


@pytest.mark.parametrize("measure", MEASURES)
def test_greedy_takes_the_best_each_time_and_exhaustive_the_best_set(measure):
    model = tiny("llama")
    among, chosen = units(model, "sublayer"), []
    while len(chosen) < 3:
        left = [unit for unit in among if unit not in chosen]
        chosen.append(min(left, key=lambda unit: slow(model, [*chosen, unit], measure)))
    assert greedy(model, TEXTS, among, 3, measure) == chosen
    assert greedy(model, TEXTS, among, 3, measure, known=chosen[:2]) == chosen
    assert greedy(model, TEXTS, among, 1, measure, known=chosen[:2]) == chosen[:1]
    best = min(itertools.combinations(among, 2), key=lambda each: slow(model, each, measure))
    assert exhaustive(model, TEXTS, among, 2, measure) == list(best)
    assert slow(model, best, measure) <= slow(model, chosen[:2], measure) + 1e-6


def test_too_many_sets_are_refused_before_any_is_tried(monkeypatch):
    monkeypatch.setattr(measured, "losses", None)
    with pytest.raises(SettingError, match="greedy"):
        exhaustive(tiny("llama", layers=30), TEXTS, units(tiny("llama", layers=30), "sublayer"), 3, "loss")
