"""The drafter says what a model that reads everything afresh says, whatever it held before; and what it counts."""

import pytest
import torch
from helpers import run, tokens_of

from workbench.engine import Decoder, Sampler
from workbench.errors import SettingError
from workbench.models.tiny import tiny
from workbench.parts import distilled
from workbench.techniques import DraftModel, DynamicTree, OverlappedDraft, WithoutReplacementTree
from workbench.techniques.draft._model_drafter import ModelDrafter, drafter_model

PROMPT = list(range(3, 23))
FAMILIES = ("llama", "gemma3_text", "gpt2")


def afresh(model, tokens):
    return Decoder(model).forward(tokens)[0]


def assert_close(found, expected):
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_it_follows_a_text_whatever_it_drafted_before(family):
    model = tiny(family).shallow(2)
    drafter = ModelDrafter(model)
    text = list(PROMPT)
    for accepted in (0, 3, 1, 2):
        assert_close(drafter.follow(text), afresh(model, text))
        drafted = [50, 51, 52]
        for place in range(3):
            assert_close(drafter.extend(drafted[place : place + 1]), afresh(model, text + drafted[: place + 1]))
        text += [*drafted[:accepted], 60 + accepted]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("taken", [[], [30], [31, 41], [30, 40, 50], [31, 40]])
def test_a_tree_is_read_along_its_branches_and_the_branch_taken_is_kept(family, taken):
    model = tiny(family).shallow(2)
    drafter = ModelDrafter(model)
    drafter.follow(PROMPT)
    tokens, parents = [30, 31], [-1, -1]
    drafter.grow(tokens, parents, [0, 1])
    tokens, parents = [30, 31, 40, 41, 50], [-1, -1, 0, 1, 2]
    rows = drafter.grow(tokens, parents, [4, 3])
    assert_close(rows[0], afresh(model, [*PROMPT, 30, 40, 50]))
    assert_close(rows[1], afresh(model, [*PROMPT, 31, 41]))
    text = [*PROMPT, *taken, 70]
    drafter.reset_counts()
    assert_close(drafter.follow(text), afresh(model, text))
    known = 1 if taken == [31, 40] else len(taken)
    fresh = Decoder(model)
    fresh.prefill(text[: len(PROMPT) + known])
    fresh.reset_counts()
    fresh.forward(text[len(PROMPT) + known :])
    assert drafter.flops == fresh.flops, "the tokens of the branch went through the model once more"


def test_a_trimmed_vocabulary_is_mapped_to_the_whole_one():
    main = tiny("llama")
    kept = torch.arange(5, 96, 3)
    trimmed = main.shallow(2).variant(draft_vocabulary=kept)
    drafter = ModelDrafter(trimmed)
    logits = drafter.follow(PROMPT)
    full = afresh(main.shallow(2), PROMPT)
    assert_close(logits, full[kept])
    token, chance = drafter.best(logits)
    assert token == int(kept[full[kept].argmax()])
    assert chance == pytest.approx(float(full[kept].softmax(-1).max()), abs=1e-4)
    sampler = Sampler(0.7)
    token, distribution, chance = drafter.draw(logits, sampler)
    spread = drafter.spread([distribution], 96)[0]
    assert spread.shape == (96,) and float(spread[token]) == pytest.approx(chance)
    assert float(spread.sum()) == pytest.approx(1, abs=1e-5)
    assert set(spread.nonzero()[:, 0].tolist()) <= set(kept.tolist())
    tokens, distribution = drafter.distribution(logits[None], sampler, 4)
    assert tokens[0].tolist() == kept[full[kept].topk(4).indices].tolist()
    torch.testing.assert_close(distribution[0], (full[tokens[0]] / 0.7).softmax(-1), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(
    "technique", [DraftModel(draft=3), DynamicTree(), WithoutReplacementTree(), OverlappedDraft(first=1)]
)
@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_every_technique_drafts_from_a_trimmed_vocabulary(technique, temperature, monkeypatch):
    main = tiny("llama")
    trimmed = main.shallow(3).variant(draft_vocabulary=torch.arange(1, 96, 2))
    monkeypatch.setattr(distilled, "load", lambda model, weights: trimmed)
    steps = run(main, PROMPT, [technique], temperature=temperature)
    drafted = {token for step in steps for token, *_ in step.nodes}
    assert drafted and all(token % 2 for token in drafted)
    assert sum(step.accepted for step in steps) > 0
    if not temperature:
        assert tokens_of(steps) == tokens_of(run(main, PROMPT))


def test_a_distribution_is_cut_to_its_most_probable_tokens():
    drafter = ModelDrafter(tiny("llama").shallow(2))
    logits = drafter.follow(PROMPT)[None]
    tokens, distribution = drafter.distribution(logits, Sampler(0.7), 5)
    expected = (logits[0] / 0.7).softmax(-1)
    order = expected.argsort(descending=True)[:5]
    assert tokens[0].tolist() == order.tolist()
    torch.testing.assert_close(distribution[0], expected[order] / expected[order].sum())
    greedy = drafter.distribution(logits, Sampler(), 0)[1][0]
    torch.testing.assert_close(greedy, logits[0].softmax(-1).sort(descending=True).values)


def test_auto_is_half_of_the_layers_where_nothing_was_trained_and_distilled_says_how_to_train():
    main = tiny("llama")
    assert drafter_model(main).layers == 2
    assert drafter_model(main, "/3").layers == 3
    with pytest.raises(SettingError, match="workbench train draft_model"):
        drafter_model(main, "distilled")
