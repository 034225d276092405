"""Who leaves where against the paper's formulas, what checks cost, and that exits with a tuned lens are worth more."""

import math

import pytest
import torch
from helpers import random_tokens, run, tokens_of
from techniques.replayed import leaves_as
from techniques.trained_parts import needs_artefact

from workbench.engine import Chance, Decoder, Run, Sampler, generate, teacher_force
from workbench.errors import SettingError
from workbench.models.removed import without
from workbench.models.tiny import tiny
from workbench.parts.exits import load_lens
from workbench.parts.exits.confidence import confidence, decayed, saturation
from workbench.techniques import ConfidenceExit, PromptLookup

PROMPT = random_tokens(20)


def test_confidences_are_the_formulas():
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0], [0.0, 0.0, 0.0, 0.0], [50.0, 0.0, 0.0, 0.0]])
    chances = logits.double().softmax(-1)
    first, second = chances.sort(-1, descending=True).values[:, :2].unbind(1)
    entropy = -(chances * chances.clamp_min(1e-300).log()).sum(-1)
    for measure, expected in (
        ("probability", first), ("margin", first - second), ("entropy", 1 - entropy / math.log(4))
    ):  # fmt: skip
        torch.testing.assert_close(confidence(measure, logits).double(), expected, rtol=1e-5, atol=1e-6)
    assert confidence("entropy", logits)[1].abs() < 1e-6
    one = torch.tensor([[1.0, 0.0], [1.0, 1.0], [1.0, 0.0]])
    other = torch.tensor([[2.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    torch.testing.assert_close(saturation(one, other), torch.tensor([1.0, 0.5**0.5, 0.0]))


@pytest.mark.parametrize(("threshold", "decay"), [(0.8, 4.0), (0.2, 1.0), (1.0, 4.0)])
def test_the_threshold_decays_as_in_the_paper(threshold, decay):
    found = [decayed(threshold, decay, token, 20) for token in range(20)]
    assert found == [min(1.0, 0.9 * threshold + 0.1 * math.exp(-decay * token / 20)) for token in range(20)]
    assert found == sorted(found, reverse=True) and found[0] > found[-1]
    assert decayed(threshold, 0.0, 7, 20) == threshold


def test_layers_that_are_checked():
    assert list(ConfidenceExit(first=0.6, every=3).checked(30)) == [17, 20, 23, 26]
    assert list(ConfidenceExit(first=0.0, every=1).checked(4)) == [0, 1, 2]
    assert list(ConfidenceExit(first=1.0, every=1).checked(4)) == []


@pytest.mark.parametrize("weights", ["logit", "untrained"])
@pytest.mark.parametrize("measure", ["probability", "margin", "entropy", "saturation"])
def test_a_token_leaves_after_the_first_layer_that_is_sure(measure, weights):
    """Without a fill, replayed by hand: the stream, the lens, the measure, the threshold."""
    model = tiny("llama", layers=6)
    threshold, first = {"probability": 0.12, "margin": 0.03, "entropy": 0.15, "saturation": 0.85}[measure], 1
    technique = ConfidenceExit(
        lens=weights, measure=measure, threshold=threshold, decay=2.0, first=0.3, every=1, vocabulary=0, fill="hole"
    )
    assert list(technique.checked(6)) == [1, 2, 3, 4]
    steps = run(model, PROMPT, [technique], new=24)
    lens, before = load_lens(model, weights), None

    def look(token, layer, x):
        nonlocal before
        stream, earlier, before = lens.stream(x, layer), before, x
        if not first <= layer < 5:
            return stream, False
        saturates = measure == "saturation"
        sure = saturation(x, earlier) if saturates else confidence(measure, model.anatomy.unembed(stream))
        return stream, float(sure) > decayed(threshold, 2.0, token, 24)

    leaves_as(look, model, PROMPT, steps)


def test_what_a_check_costs_is_counted_and_nothing_twice():
    """A check on some tokens reads those rows of the head; one on all is the head that the token is chosen from."""
    model = tiny("llama")
    width, vocabulary = model.anatomy.width, model.anatomy.vocabulary
    full = 2 * width * vocabulary
    for tokens, checks, heads in ((10, 2 * 2 * width * 10, full), (0, 2 * full, 0)):
        technique = ConfidenceExit(lens="logit", threshold=0.0, first=0.0, every=1, vocabulary=tokens, fill="hole")
        step = run(model, PROMPT, [technique], new=3)[2]
        assert step.layers == (0,) and step.policy_flops == checks / 2
        block = model.anatomy.blocks[0]
        attention = 4 * step.keys_read[0] * block.heads * block.head_dim
        assert step.flops - step.policy_flops == block.flops(1) + attention + heads
    stays = ConfidenceExit(lens="untrained", threshold=1.0, first=0.5, every=1, vocabulary=10)
    step, plain = run(model, PROMPT, [stays], new=3)[2], run(model, PROMPT, new=3)[2]
    assert step.policy_flops == 2 * (2 * width * 10 + 2 * 2 * 4 * width)
    assert step.flops - step.policy_flops == plain.flops


@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt2"])
def test_drafts_are_verified_as_tokens_that_come_alone(family, place):
    """An exit bends the text, a draft beside it does not."""
    model, prompt, technique = tiny(family), random_tokens(7) * 3, ConfidenceExit.examples()[place]
    alone, drafted = (run(model, prompt, [technique, *more], new=32) for more in ([], [PromptLookup()]))
    assert tokens_of(alone) == tokens_of(drafted)
    assert any(len(step.layers) < model.layers for step in alone[1:])
    assert sum(step.drafted for step in drafted) > 0


def test_every_drafted_token_has_the_threshold_of_its_place():
    """The threshold falls fast here: at the place of another token of the draft it is another one."""
    model, tokens = tiny("llama"), random_tokens(8, seed=4)
    technique = ConfidenceExit(lens="logit", measure="margin", threshold=0.0, decay=12.0, first=0.5, every=2)
    assert list(technique.checked(4)) == [1]
    policy = technique.start(Run(model, tuple(PROMPT), 24, Sampler(chance=Chance(0)), 0))
    decoder, plain = Decoder(model, 24, {"depth": policy}), Decoder(model, 24)
    for each in (decoder, plain):
        each.prefill(PROMPT, prompt=True)
    with plain.open(tokens) as opened:
        opened.run(until=2)
        sure = confidence("margin", opened.unembed()).tolist()
    with decoder.open(tokens) as opened:
        opened.run(until=3)
        left = {row for row in range(8) if row in opened.answers}
    here = {row for row in range(8) if sure[row] > decayed(0.0, 12.0, row + 1, 24)}
    assert left == here
    assert here not in [{row for row in range(8) if sure[row] > decayed(0.0, 12.0, one, 24)} for one in range(9)]


def test_layers_left_out_hold_no_keys_unless_they_are_filled():
    model = tiny("llama")
    for fill, held in (("hole", 20), ("batch", 20), ("copy", 29)):
        technique = ConfidenceExit(lens="logit", threshold=0.0, first=0.5, every=1, fill=fill)
        step = run(model, PROMPT, [technique], new=10)[-1]
        assert step.layers == (0, 1) and step.keys_kept == (29, 29, held, held)


def test_a_run_that_goes_on_fills_what_waits():
    model = tiny("llama")
    technique = ConfidenceExit(lens="logit", threshold=0.0, first=0.5, every=1, fill="batch")
    first = generate(model, PROMPT, [technique], max_new_tokens=6, stop_tokens=())
    text = [*PROMPT, *tokens_of(first)]
    again = run(model, [5, 6, 7], [technique], new=2, past=first.state)
    assert again[0].tokens == run(model, [*text, 5, 6, 7], new=1)[0].tokens
    assert again[0].keys_kept == (len(text) + 3,) * 4


def test_a_model_without_a_tuned_lens_is_told_before_anything_runs():
    with pytest.raises(SettingError, match="workbench train tuned_lens"):
        generate(tiny("llama"), PROMPT, [ConfidenceExit()])


@needs_artefact("tuned_lens")
@pytest.mark.bundled(seconds=12)
def test_exits_of_the_bundled_model_pay_with_a_tuned_lens_only(bundled):
    """Where every token leaves after the same layer, and where a higher threshold is nearer to the whole model."""
    prompt = bundled.encode(bundled.chat("Explain in a few sentences why the sky is blue."))
    plain = run(bundled, prompt, new=40)
    said = tokens_of(plain)

    def agreement(**settings):
        rows = torch.cat(list(teacher_force(bundled, prompt, said, [ConfidenceExit(first=0.8, **settings)])))
        return float((rows.argmax(-1) == torch.tensor(said)).float().mean())

    always = {"threshold": 0.0, "every": 10}
    tuned, logit = agreement(**always), agreement(lens="logit", **always)
    assert tuned > logit + 0.1
    careful = agreement(threshold=0.8, every=2)
    assert careful > tuned
    steps = run(bundled, prompt, [ConfidenceExit(first=0.8, every=2, threshold=0.8)], new=40)[1:]
    layers = sum(len(step.layers) for step in steps) / len(steps)
    assert layers < 29.5 and sum(step.flops for step in steps) != sum(step.flops for step in plain[1:])


def test_a_layer_that_was_removed_saturates_nothing():
    whole = tiny("llama")
    model = whole.variant(replace={2: without(whole.anatomy.blocks[2], True, True)})
    steps = run(
        model, random_tokens(9), [ConfidenceExit(lens="logit", measure="saturation", threshold=0.9999, every=1)]
    )
    assert {step.layers for step in steps} == {(0, 1, 3)}
