"""Who leaves where against the formula, what the second stream costs, and that it is worth more than the first."""

import pytest
import torch
from helpers import random_tokens, run, tokens_of
from techniques.replayed import leaves_as
from techniques.trained_parts import needs_artefact

from workbench.engine import generate, teacher_force
from workbench.errors import SettingError
from workbench.models.tiny import tiny
from workbench.parts.exits import load_accelerated
from workbench.parts.exits.confidence import confidence
from workbench.techniques import AcceleratedResidual, ConfidenceExit, PromptLookup, SelfSpeculative

PROMPT = random_tokens(20)


@pytest.mark.parametrize("measure", ["probability", "margin", "entropy"])
def test_a_token_leaves_after_the_first_layer_whose_accelerated_stream_is_sure(measure):
    """Without a fill, replayed by hand: the slow stream, its lead, the measure, the threshold."""
    model = tiny("llama", layers=6)
    threshold = {"probability": 0.12, "margin": 0.03, "entropy": 0.15}[measure]
    technique = AcceleratedResidual(
        weights="untrained", measure=measure, threshold=threshold, first=0.3, vocabulary=0, fill="hole"
    )
    steps = run(model, PROMPT, [technique], new=24)
    lens, lead = load_accelerated(model, "untrained"), None

    def look(token, layer, x):
        nonlocal lead
        if layer == 5:
            return x, False
        lead = lens.advance(x, layer, lead if layer else None)
        sure = float(confidence(measure, model.anatomy.unembed(x + lead)))
        return x + lead, layer >= 1 and sure > threshold  # two layers are not asked

    leaves_as(look, model, PROMPT, steps)


def test_accelerators_and_checks_are_the_policy_s_work_and_nothing_else_is():
    model = tiny("llama")
    width, vocabulary, lens = model.anatomy.width, model.anatomy.vocabulary, load_accelerated(model, "untrained")
    each = 2 * (2 + 4 + 1) * 4 * width
    assert lens.seeing(0, 1) == (each, 2 * each), "two products of the stream, two of both, one of the gated"
    stays = AcceleratedResidual(weights="untrained", threshold=1.0, first=0.5, vocabulary=10)
    step, plain = run(model, PROMPT, [stays], new=3)[2], run(model, PROMPT, new=3)[2]
    # Layers 1 to 3 of 4 are accelerated, 2 and 3 checked.
    assert step.policy_flops == 3 * each + 2 * 2 * 10 * width
    assert step.flops - step.policy_flops == plain.flops
    leaves = AcceleratedResidual(weights="untrained", threshold=0.0, first=0.5, vocabulary=0, fill="hole")
    step = run(model, PROMPT, [leaves], new=3)[2]
    assert step.layers == (0, 1) and step.policy_flops == 2 * each + 2 * width * vocabulary
    block = model.anatomy.blocks[0]
    attention = sum(4 * keys * block.heads * block.head_dim for keys in step.keys_read[:2])
    assert step.flops - step.policy_flops == 2 * block.flops(1) + attention, "its logits are those of the check"


def test_nobody_follows_a_stream_behind_the_last_check():
    model = tiny("llama", layers=6)
    technique = AcceleratedResidual(weights="untrained", threshold=1.0, first=1.0)
    assert run(model, PROMPT, [technique], new=3)[2].policy_flops == 0


DRAFTS = SelfSpeculative(exit_layer=2, lens="untrained", accelerated=True, threshold=0)


@pytest.mark.parametrize(("drafter", "place"), [(PromptLookup(), 0), (PromptLookup(), 2), (DRAFTS, 1)])
def test_drafts_are_verified_as_tokens_that_come_alone(drafter, place):
    """Every row has a stream of its own, however many come together and however often their pass pauses."""
    model, prompt, technique = tiny("llama"), random_tokens(7) * 3, AcceleratedResidual.examples()[place]
    alone, drafted = (run(model, prompt, [technique, *more], new=32) for more in ([], [drafter]))
    assert tokens_of(alone) == tokens_of(drafted)
    assert any(len(step.layers) < model.layers for step in alone[1:])
    assert sum(step.drafted for step in drafted) > 0


def test_a_model_without_accelerators_is_told_before_anything_runs():
    with pytest.raises(SettingError, match="workbench train accelerated_residual"):
        generate(tiny("llama"), PROMPT, [AcceleratedResidual()])


@needs_artefact("accelerated_residual")
@pytest.mark.bundled(seconds=10)
def test_the_bundled_model_s_accelerated_stream_is_at_the_end_before_its_own_is(bundled):
    """What it says after 24 of 30 layers is far oftener the last layer's token, so that tokens may leave there, and
    drafts are kept."""
    prompt = bundled.encode(bundled.chat("Explain in a few sentences why the sky is blue."))
    plain = run(bundled, prompt, new=32)
    said = tokens_of(plain)

    def agreement(technique):
        rows = torch.cat(list(teacher_force(bundled, prompt, said, [technique])))
        return float((rows.argmax(-1) == torch.tensor(said)).float().mean())

    slow = agreement(ConfidenceExit(lens="logit", first=0.8, every=10, threshold=0.0))
    always = agreement(AcceleratedResidual(first=0.8, threshold=0.0))
    careful = agreement(AcceleratedResidual(first=0.8, threshold=0.8))
    assert slow + 0.1 < always < careful
    drafts = {"exit_layer": 24, "draft": 3, "threshold": 0.0}
    kept = []
    for lens in ({"lens": "logit"}, {"accelerated": True}):
        steps = run(bundled, prompt, [SelfSpeculative(**drafts, **lens)], new=32)
        assert tokens_of(steps) == said
        kept.append(sum(step.accepted for step in steps) / sum(step.drafted for step in steps))
    assert kept[1] > kept[0] + 0.1
