"""Shadow tokens are what each exit would have drafted; exit and length follow them, and the text stays the same."""

import dataclasses
import itertools

import pytest
import torch
from helpers import random_tokens, run, tokens_of

import workbench
from workbench.engine import Decoder, Run, Sampler
from workbench.errors import SettingError
from workbench.models import FAMILIES
from workbench.models.tiny import tiny
from workbench.parts.exits import load_lens
from workbench.techniques import DynamicExitLayer, Goodput
from workbench.techniques.draft.dynamic_exit_layer.shadows import Shadows

PROMPT = random_tokens(12) * 2
PAPER = DynamicExitLayer(stride=1, every=1, count_head=False, lens="logit")


@pytest.fixture
def learned(monkeypatch):
    """What every round's shadow tokens gave: (agreed, confidence), each [candidates, tokens]."""
    rounds, learn = [], Shadows.learn
    monkeypatch.setattr(Shadows, "learn", lambda shadows, *given: rounds.append(given) or learn(shadows, *given))
    return rounds


@pytest.fixture
def drafting(monkeypatch):
    """Every round drafts two tokens from the second candidate, so that each reads shadow tokens."""
    monkeypatch.setattr(Shadows, "choose", lambda shadows: (1, 2))


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_exact_in_every_family(family):
    model = tiny(family)
    assert tokens_of(run(model, PROMPT, [PAPER], new=16)) == tokens_of(run(model, PROMPT, new=16))


@pytest.mark.parametrize("settings", [{}, {"lens": "untrained", "vocabulary": 60}])
@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_shadow_tokens_are_what_the_exits_would_have_drafted(family, settings, temperature, learned, drafting):
    model, sampler = tiny(family), Sampler(temperature)
    technique = DynamicExitLayer(
        **{"confident": False, "stride": 1, "every": 1, "count_head": False, "lens": "logit", **settings}
    )
    steps = run(model, PROMPT, [technique], new=14, temperature=temperature)
    # The last step may draft nothing, and is not asked then.
    assert any(step.drafted for step in steps) and len(learned) in (len(steps) - 2, len(steps) - 1)
    lens, streams = load_lens(model, technique.lens), {}

    def watch(site, layer, value):
        if site == "residual":
            streams.setdefault(layer, []).append(value[0])

    text = [*PROMPT, *tokens_of(steps)]
    rows = Decoder(model, watch=watch).prefill(text[:-1], logits="all")
    place = len(PROMPT) + 1
    for step, (agreed, confidence) in zip(steps[1:], learned):
        for candidate, layer in enumerate(range(1, model.layers)):
            head = lens.head(layer - 1, technique.vocabulary)
            for token in range(len(step.tokens)):
                stream, said = streams[layer - 1][0][place + token - 1], text[place + token]
                logits = head(stream[None])[0]
                names = torch.arange(len(logits)) if head.vocabulary is None else head.vocabulary
                if temperature:
                    exits = torch.zeros(model.anatomy.vocabulary)
                    exits[names] = sampler.distribution(logits)
                    expected = torch.minimum(exits, sampler.distribution(rows[place + token - 1])).sum()
                else:
                    expected = int(names[logits.argmax()]) == said
                assert agreed[candidate, token] == pytest.approx(float(expected), abs=1e-4)
                assert confidence[candidate, token] == pytest.approx(float(logits.softmax(-1).max()), abs=1e-4)
        assert agreed.shape == (model.layers - 1, len(step.tokens))
        place += len(step.tokens)


def test_what_shadow_tokens_cost_is_counted_once(learned, drafting):
    model = tiny("llama")
    head, slow = load_lens(model, "logit").head(0), Decoder(model)
    slow.prefill(PROMPT)
    steps = run(model, PROMPT, [dataclasses.replace(PAPER, confident=False)], new=14)
    text = [*PROMPT, *steps[0].tokens]
    for step, (agreed, _) in zip(steps[1:], learned):
        drafted, held = [token for token, *_ in step.nodes], slow.cache.length
        slow.reset_counts()
        for token in [text[-1], *drafted]:
            slow.forward([token])
        assert step.flops == slow.flops + head.flops(len(drafted)) + head.flops(agreed.size)
        slow.cache.crop_to(held)
        slow.forward([text[-1], *step.tokens[:-1]])
        text += step.tokens


def test_the_exit_and_the_length_are_those_that_pay(monkeypatch):
    model, chosen, choose = tiny("gemma3_text"), [], Shadows.choose
    monkeypatch.setattr(Shadows, "choose", lambda shadows: chosen.append(choose(shadows)) or chosen[-1])
    steps = run(model, PROMPT, [PAPER], new=24)
    for step, (place, length) in zip(steps[1:], chosen):
        if step.drafted:
            assert step.layers[: place + 1] == tuple(range(place + 1)) and step.layers[place + 1] == 0
        # The text's end or a token that is not sure may end a draft sooner.
        assert step.drafted <= length
    # The tiny Gemma repeats itself, which all its exits know: drafts grow, and the first exit takes over.
    assert max(step.drafted for step in steps) >= 4 and chosen[-1][0] == 0


def test_a_draft_ends_where_its_exit_is_not_sure(learned, drafting, monkeypatch):
    model = tiny("llama")
    for threshold, drafted in ((0.0, {2}), (1.0, {0})):
        monkeypatch.setattr(Shadows, "thresholds", [threshold] * 3)
        assert {step.drafted for step in run(model, PROMPT, [PAPER], new=14)[1:-2]} == drafted
    monkeypatch.setattr(Shadows, "thresholds", [1.0] * 3)
    steps = run(model, PROMPT, [dataclasses.replace(PAPER, confident=False)], new=14)
    assert {step.drafted for step in steps[1:-2]} == {2}


def test_where_nothing_pays_it_looks_more_and_more_seldom(learned, monkeypatch):
    model = tiny("llama")
    monkeypatch.setattr(Shadows, "choose", lambda shadows: (0, 0))
    plain = run(model, PROMPT, new=60)
    steps = run(model, PROMPT, [DynamicExitLayer(stride=1, every=2, lens="logit")], new=60)
    looked = [index for index, (step, other) in enumerate(zip(steps, plain)) if step.flops > other.flops]
    assert looked == [1, 5, 13, 29] and len(learned) == 4
    assert [later - first for first, later in itertools.pairwise(looked)] == [4, 8, 16]


@pytest.mark.parametrize("others", [[Goodput()], [Goodput(), DynamicExitLayer(draft=0)]], ids=["pruned", "neutral"])
def test_with_what_prunes_drafts(others):
    model = tiny("gemma3_text")
    techniques = [PAPER, *others] if len(others) == 1 else others
    assert tokens_of(run(model, PROMPT, techniques)) == tokens_of(run(model, PROMPT))


def test_it_begins_with_what_the_lens_is_known_for(monkeypatch):
    model = tiny("llama", layers=6)
    lens = load_lens(model, "logit")
    lens.acceptance = torch.tensor([[0.05, 0.5], [0.1, 0.5], [0.3, 0.5], [0.5, 0.5], [0.6, 0.5], [0.9, 0.5]])
    monkeypatch.setattr("workbench.techniques.draft.dynamic_exit_layer.load_lens", lambda *given: lens)
    policy = DynamicExitLayer(stride=2).start(Run(model, (1, 2), 4, Sampler(), 0))
    assert policy.shadows.layers == [2, 4] and policy.shadows.acceptance == pytest.approx([0.3, 0.6])
    lens.acceptance = None
    policy = DynamicExitLayer(stride=2).start(Run(model, (1, 2), 4, Sampler(), 0))
    assert policy.shadows.acceptance == pytest.approx([2 / 6, 4 / 6])


def test_a_stride_that_leaves_no_exit_is_refused():
    with pytest.raises(SettingError, match="take 1 … 3"):
        workbench.generate(tiny("llama"), PROMPT, [DynamicExitLayer(stride=4, lens="logit")])


@pytest.mark.bundled
def test_an_untrained_model_s_exits_do_not_pay_and_few_tokens_are_drafted(bundled):
    prompt = bundled.encode("def add(a, b):\n    return a + b\n\ndef subtract(a, b):\n    return")
    steps = run(bundled, prompt, [DynamicExitLayer(stride=5, lens="logit")], new=24)
    assert tokens_of(steps) == tokens_of(run(bundled, prompt, new=24))
    assert sum(step.drafted for step in steps) <= 6
