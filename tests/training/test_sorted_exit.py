"""The loss of sorted models against a slow restatement, and sub-models that learn."""

import dataclasses

import pytest
import torch
from helpers import random_tokens

from workbench.engine import Decoder
from workbench.errors import SettingError
from workbench.models.tiny import tiny
from workbench.parts.exits.sorted import load_sorted
from workbench.parts.exits.submodels import sorted_view
from workbench.training import SortedExit, train
from workbench.training.data import DataSettings
from workbench.training.writing import write_texts

RECIPE = SortedExit(every=1, shallowest=0.5, first=0.5, widths=1, places=1000, vocabulary=10_000, learning_rate=3e-3)


def logits_of(model, tokens):
    return torch.stack([Decoder(model).prefill(text, logits="all") for text in tokens.tolist()])


def test_the_loss_weighs_deep_sub_models_more():
    """Their distributions by sub-models that are models of their own, place by place."""
    model = tiny("llama")
    part = load_sorted(model, "untrained")
    part.widths, part.acceptance = part.widths[:1], part.acceptance[:1]
    part.vocabulary = torch.arange(model.anatomy.vocabulary)
    tokens = torch.tensor([random_tokens(12, seed) for seed in range(3)])
    answer = torch.zeros_like(tokens, dtype=torch.bool)
    answer[:, 5:] = True
    changed = dataclasses.replace(model)
    changed.anatomy = sorted_view(model.anatomy, part, 1, 1)
    plain = logits_of(model, tokens)[:, 4:-1].log_softmax(-1)
    expected, shares = 0.0, {}
    for place, depth in enumerate((2, 3, 4)):
        said = logits_of(changed.variant(range(depth)), tokens)[:, 4:-1].log_softmax(-1)
        expected += (place + 1) / 6 * float((plain.exp() * (plain - said)).sum(-1).mean())
        shares[f"accuracy_{depth}"] = float((said.argmax(-1) == plain.argmax(-1)).float().mean())
    for gradients in (False, True):
        with torch.set_grad_enabled(gradients):
            loss, figures = RECIPE.loss(model, part, tokens, answer)
        torch.testing.assert_close(float(loss.detach()), expected, rtol=1e-4, atol=1e-5)
        assert figures == {**shares, "accuracy": shares["accuracy_4"], "accuracy_narrow": shares["accuracy_4"]}


def test_a_sub_model_without_a_block_that_changes_is_refused():
    with pytest.raises(SettingError, match="of 1 layers has none that change, as 2 lie below them: set first= lower"):
        SortedExit(every=1, shallowest=0.25, first=0.5).part(tiny("llama"))


def test_neurons_are_ordered_by_what_they_add():
    model = tiny("llama")
    tokens = torch.tensor(random_tokens(40))
    block, seen = model.anatomy.blocks[3], []

    def watch(site, layer, value):
        if layer == 3 and site == "attention_output":
            seen.append(value)
        if layer == 2 and site == "residual":
            seen.append(value)

    Decoder(model, watch=watch).prefill(tokens.tolist())
    before, attended = seen
    with torch.inference_mode():
        strong = block.activation(block.up(block.mlp_norm(before + attended)), block.gated)[0].abs().mean(0)
    added = [float(one * two) for one, two in zip(strong, block.down.weight.norm(dim=0))]
    prepared = RECIPE.prepare(model, tokens)
    assert prepared["order"].shape == (2, len(added))
    assert prepared["order"][1].tolist() == sorted(range(len(added)), key=lambda each: -added[each])


def test_sub_models_learn_and_the_full_one_is_not_lost(tmp_path):
    """What a random model says has little structure to learn; on text that was not trained on it is learned still."""
    model = tiny("llama")
    generator = torch.Generator().manual_seed(5)
    prompts = [torch.randint(3, 96, (8,), generator=generator).tolist() for _ in range(120)]
    data = write_texts(model, prompts, prompts, DataSettings(new_tokens=24, length=40, sampled=1, continued=0))
    settings = {"steps": 80, "batch": 8, "length": 40, "rank": 8, "shallowest": 0.75, "first": 0.25}
    card = train("sorted_exit", model, tmp_path, data, **{**dataclasses.asdict(RECIPE), **settings})
    curve = card["curve"]
    assert curve["held_out_loss"][-1] < 0.92 * curve["held_out_loss"][0]
    assert curve["held_out_accuracy_3"][-1] > curve["held_out_accuracy_3"][0]
    assert curve["held_out_accuracy_4"][0] == 1 and curve["held_out_accuracy_4"][-1] > 0.85
