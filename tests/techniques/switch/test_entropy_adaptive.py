"""The switching rule, and both caches right after every switch."""

import math
import statistics
from itertools import pairwise

import pytest
import torch
from scaled import scaled

from workbench.engine import Decoder, Run, Sampler, generate
from workbench.errors import SettingError
from workbench.models.tiny import tiny
from workbench.techniques import DraftModel, EntropyAdaptive

PROMPT = list(range(3, 23))


def switch(**settings):
    run = Run(tiny("llama"), tuple(PROMPT), 10, Sampler(), 0)
    return EntropyAdaptive(small="/2", **settings).start(run)


def test_rolling_mean_in_bits_decides():
    policy = switch(threshold=1.0, window=2, dwell=1)
    bits = [None, 3.0, 0.5, 0.2, 0.1, 1.0, 2.0]
    chosen = [policy.choose_model([] if b is None else [b * math.log(2)]) for b in bits]
    # means over two: 3.0, 1.75, 0.35, 0.15, 0.55, 1.5
    assert chosen == [0, 0, 0, 1, 1, 1, 0]


def test_a_switch_is_followed_by_a_rest():
    policy = switch(threshold=1.0, window=1, dwell=3)
    chosen = [policy.choose_model(values) for values in ([], [0.0], [0.0], [0.0], [9.0], [9.0], [9.0], [9.0])]
    assert chosen == [0, 0, 0, 1, 1, 1, 0, 0]


def test_window_and_rest_count_tokens_however_many_a_step_gave():
    policy = switch(threshold=1.0, window=3, dwell=4)
    # Three tokens do not end the rest, though they fill the window; the fourth does.
    assert [policy.choose_model(values) for values in ([], [0.0, 0.0, 0.0], [0.0], [9.0, 9.0, 9.0], [9.0])] == [
        0, 0, 1, 1, 0,
    ]  # fmt: skip


def test_every_token_of_a_draft_has_its_entropy():
    """The copied tokens' own distributions, not only that of the last token of a step."""
    told = []

    class Watching(EntropyAdaptive):
        def start(self, run):
            policy = super().start(run)
            choose = policy.choose_model
            policy.choose_model = lambda entropies, _: told.append(list(entropies)) or choose(entropies)
            return policy

    model, prompt = tiny("llama"), PROMPT
    watching = Watching(small="/2", threshold=0.0)
    steps = list(
        generate(model, prompt, [watching, DraftModel(model="/1.0", draft=2)], max_new_tokens=40, stop_tokens=())
    )
    assert [len(each) for each in told] == [0, *(len(step.tokens) for step in steps[:-1])] and max(map(len, told)) > 1
    text = list(prompt)
    for step, entropies in zip(steps, told[1:]):
        for token, found in zip(step.tokens, entropies):
            logs = Decoder(model).forward(text)[0].log_softmax(-1)
            assert found == pytest.approx(-float((logs.exp() * logs).sum()), abs=1e-3)
            text.append(token)


def halfway(model):
    """A technique whose threshold splits this model's own entropies in two halves, so that both models write."""
    alone = EntropyAdaptive(small="/3", threshold=0.0)
    steps = list(generate(model, PROMPT, [alone], max_new_tokens=30, stop_tokens=()))
    middle = statistics.median(step.entropy for step in steps) / math.log(2)
    return EntropyAdaptive(small="/3", threshold=middle, window=1, dwell=1)


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt2", "mixtral"])
def test_every_token_is_what_its_model_says_of_the_whole_text(family):
    model = tiny(family)
    technique = halfway(model)
    steps = list(generate(model, PROMPT, [technique], max_new_tokens=30, stop_tokens=()))
    models = {model.name: model, f"{model.name}/3": model.shallow(3)}
    assert {step.model for step in steps} == set(models), "both models must write for this to show anything"
    text = list(PROMPT)
    for step in steps:
        fresh = Decoder(models[step.model]).forward(text)[0]
        assert step.tokens == (int(fresh.argmax()),)
        text += step.tokens


def test_catching_up_takes_one_forward():
    model = tiny("llama")
    technique = halfway(model)
    steps = list(generate(model, PROMPT, [technique], max_new_tokens=30, stop_tokens=()))
    switched = [b for a, b in pairwise(steps) if a.model != b.model]
    assert switched and {step.forwards for step in steps} <= {1, 2, 3}


@pytest.mark.slow
@pytest.mark.bundled
def test_a_higher_threshold_saves_more_and_costs_quality(bundled):
    from workbench.engine import teacher_force
    from workbench.tasks import encode_prompt, load_prompts

    ids = encode_prompt(bundled.tokenizer, load_prompts("summarising", limit=1)[0])[:140]
    losses, flops = [], []
    for threshold in (0.0, 2.0, 32.0):
        technique = EntropyAdaptive(small="/0.8", threshold=threshold, dwell=1)
        logits = torch.cat(list(teacher_force(bundled, ids[:100], ids[100:], [technique])))
        losses.append(float(torch.nn.functional.cross_entropy(logits, torch.tensor(ids[100:]))))
        steps = list(generate(bundled, ids[:100], [technique], max_new_tokens=24, stop_tokens=()))
        flops.append(sum(step.flops for step in steps[12:]))
    assert losses[0] < losses[2] and flops[2] < flops[0]
    assert losses[0] <= losses[1] <= losses[2]


def test_a_small_model_with_too_few_positions_is_refused(monkeypatch):
    from workbench.techniques.switch import entropy_adaptive

    small = scaled("linear")
    monkeypatch.setattr(entropy_adaptive, "second_model", lambda *_: small)
    technique = EntropyAdaptive(small="other", threshold=32.0, window=1, dwell=1)
    with pytest.raises(SettingError, match="64 positions, too few for 20 prompt tokens and 46"):
        generate(tiny("llama"), PROMPT, [technique], max_new_tokens=46)
    steps = list(generate(tiny("llama"), PROMPT, [technique], max_new_tokens=45, stop_tokens=()))
    assert {step.model for step in steps} == {"tiny-llama", small.name}
