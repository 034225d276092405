"""A run that goes on from another's state: the text of the whole conversation, and nothing computed twice."""

import threading

import pytest
import torch
from helpers import random_tokens, tokens_of

from workbench.engine import Decoder, Run, Sampler, generate
from workbench.errors import PromptError, SettingError, WorkbenchError
from workbench.models.families import FAMILIES
from workbench.models.tiny import tiny
from workbench.registry import TECHNIQUES
from workbench.techniques import EntropyAdaptive, PromptLookup, RandomEviction, SnapKV, StreamingLLM

PROMPT, MORE = random_tokens(20) * 2, random_tokens(9, seed=4)
NEW = 12
EXACT = [name for name, kind in TECHNIQUES.items() if kind.exact]


def ran(model, prompt, techniques=(), new=NEW, **options):
    """The run, over, and its tokens."""
    try:
        stream = generate(model, prompt, list(techniques), max_new_tokens=new, **{"stop_tokens": (), **options})
    except SettingError as error:
        pytest.skip(f"does not apply: {error}")
    return stream, tokens_of(stream)


@pytest.mark.parametrize("family", FAMILIES)
def test_turns_are_the_run_over_the_whole_text(family):
    model = tiny(family)
    first, said = ran(model, PROMPT)
    second, answer = ran(model, MORE, past=first.state)
    assert answer == ran(model, [*PROMPT, *said, *MORE])[1]
    third, last = ran(model, MORE[:1], past=second.state)
    assert last == ran(model, [*PROMPT, *said, *MORE, *answer, *MORE[:1]])[1]
    assert third.state.tokens == (*PROMPT, *said, *MORE, *answer, *MORE[:1], *last)


def test_only_what_is_new_is_computed():
    model = tiny("llama")
    first, said = ran(model, PROMPT)
    state = first.state
    assert state.cached == len(PROMPT) + NEW - 1 and state.tokens == (*PROMPT, *said)
    steps = list(generate(model, MORE, max_new_tokens=2, stop_tokens=(), past=state))
    # The last token of the first turn has not been through the model.
    one_pass = Decoder(model)
    one_pass.prefill(PROMPT[:1])
    one_pass.reset_counts()
    one_pass.forward([*MORE, 5])
    assert steps[0].forwards == 1 and steps[0].flops < 1.6 * one_pass.flops
    assert steps[0].keys_kept == (len(PROMPT) + NEW + len(MORE),) * model.layers


def test_nothing_new_goes_on_where_the_run_was_cut():
    model = tiny("llama")
    first, said = ran(model, PROMPT, new=5)
    assert said + ran(model, [], new=7, past=first.state)[1] == ran(model, PROMPT, new=12)[1]


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt2"])
@pytest.mark.parametrize("name", EXACT)
def test_exact_techniques_stay_exact_on_a_state(name, family):
    model, technique = tiny(family), TECHNIQUES[name].examples()[0]
    first, said = ran(model, PROMPT, [technique])
    _, answer = ran(model, MORE, [technique], past=first.state)
    assert answer == ran(model, [*PROMPT, *said, *MORE])[1]


@pytest.mark.parametrize("name", EXACT)
def test_exact_techniques_stay_exact_on_a_state_with_evictions(name):
    model, technique = tiny("llama"), TECHNIQUES[name].examples()[0]
    first, _ = ran(model, PROMPT, [RandomEviction(keep=0.4, window=4)])
    plain, drafted = (ran(model, MORE, each, past=first.state)[1] for each in ([], [technique]))
    assert drafted == plain


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_what_was_evicted_stays_evicted(family):
    """The second turn by hand: one decoder that compresses the prompt, decodes, reads what is new and decodes on."""
    model, technique = tiny(family), SnapKV(keep=0.4, window=4)
    decoder = Decoder(model, 0, {"evict": technique.start(Run(model, tuple(PROMPT), NEW, Sampler(), 0))})
    logits, text = decoder.prefill(PROMPT), []
    for turn in ([], MORE):
        for token in turn:
            logits = decoder.forward([token])
        for _ in range(NEW):
            text.append(int(logits[0].argmax()))
            logits = decoder.forward(text[-1:])
    first, said = ran(model, PROMPT, [technique])
    second, answer = ran(model, MORE, [technique], past=first.state)
    assert said + answer == text
    assert [layer.length for layer in second.state.caches[second.state.model].layers] == [
        16 + 2 * NEW + len(MORE) - 1
    ] * 4


def test_a_stream_goes_on_streaming():
    model, technique = tiny("llama"), StreamingLLM(sinks=2, window=8)
    first, _ = ran(model, PROMPT, [technique])
    steps = list(generate(model, MORE, [technique], max_new_tokens=NEW, stop_tokens=(), past=first.state))
    assert {step.keys_kept for step in steps} == {(10,) * model.layers}


def test_a_state_can_be_gone_on_from_again_and_again():
    model = tiny("llama")
    first, _ = ran(model, PROMPT, [RandomEviction(keep=0.4, window=4)])
    state = first.state
    once, other, again = (ran(model, more, past=state)[1] for more in (MORE, MORE[::-1], MORE))
    assert once == again != other


def test_a_switch_finds_both_of_its_caches():
    model, technique = tiny("llama"), EntropyAdaptive(small="/3", threshold=32.0, window=2, dwell=2)
    first, said = ran(model, PROMPT, [technique])
    assert len(first.state.caches) == 2
    _, answer = ran(model, MORE, [technique], past=first.state)
    assert len(answer) == NEW and len(said) == NEW


def test_a_text_cut_in_a_draft_leaves_no_more_than_its_own_tokens():
    model = tiny("llama")
    truth = ran(model, PROMPT, new=24)[1]
    from engine.scripted import Scripted

    from workbench.engine import Draft

    drafter = Scripted(lambda tokens, limit: Draft(truth[len(tokens) - len(PROMPT) :][: min(8, limit)]))
    stop = truth[4]
    first, said = ran(model, PROMPT, [drafter], stop_tokens=(stop,))
    assert said == truth[: truth.index(stop) + 1] and first.state.cached == len(PROMPT) + len(said) - 1
    assert ran(model, MORE, past=first.state)[1] == ran(model, [*PROMPT, *said, *MORE])[1]


def test_cancelled_and_closed_runs_have_a_state():
    model, cancel = tiny("llama"), threading.Event()
    whole = ran(model, PROMPT, new=20)[1]
    for end in ("cancel", "close"):
        stream = generate(model, PROMPT, max_new_tokens=20, stop_tokens=(), cancel=cancel)
        said = [*next(stream).tokens, *next(stream).tokens]
        stream.close() if end == "close" else (cancel.set(), list(stream))
        cancel.clear()
        assert said + ran(model, [], new=18, past=stream.state)[1] == whole
    before = generate(model, PROMPT, max_new_tokens=20, stop_tokens=())
    before.close()
    assert before.state.cached == 0 and ran(model, [], new=20, past=before.state)[1] == whole


def test_a_run_that_goes_on_or_failed_has_none(monkeypatch):
    model = tiny("llama")
    stream = generate(model, PROMPT, max_new_tokens=5, stop_tokens=())
    next(stream)
    with pytest.raises(WorkbenchError, match="has not ended"):
        _ = stream.state
    monkeypatch.setattr(model.anatomy, "unembed", lambda x: torch.full((x.shape[0], 96), float("nan")))
    with pytest.raises(WorkbenchError):
        next(stream)
    with pytest.raises(WorkbenchError, match="failed"):
        _ = stream.state


@pytest.mark.parametrize(
    "other", [lambda: tiny("llama", seed=1), lambda: tiny("gpt2"), lambda: tiny("llama", dtype=torch.bfloat16)]
)
def test_a_state_of_another_model_is_refused(other):
    state = ran(tiny("llama"), PROMPT)[0].state
    with pytest.raises(PromptError, match="this state is of tiny-llama seed 0 float32"):
        generate(other(), MORE, past=state)


def test_what_cannot_go_on_is_said():
    model = tiny("llama")
    state = ran(model, PROMPT)[0].state
    with pytest.raises(PromptError, match="does not go with past"):
        generate(model, MORE, past=state, context_tokens=3)
    with pytest.raises(PromptError, match="at most"):
        generate(model, MORE, past=state, max_new_tokens=250)
    with pytest.raises(PromptError, match="0 … 95"):
        generate(model, [500], past=state)


def test_a_state_says_what_it_is():
    model = tiny("llama")
    one, other = (
        ran(model, PROMPT, [each])[0].state.describe()
        for each in (SnapKV(keep=0.4, window=4), SnapKV(keep=0.5, window=4))
    )
    assert one["sha256"] != other["sha256"] and one["tokens"] == len(PROMPT) + NEW
    assert "keep=0.4" in one["recipes"][0][0]
    drafted = ran(model, PROMPT, [PromptLookup()])[0].state
    assert drafted.describe()["sha256"] == ran(model, PROMPT)[0].state.describe()["sha256"]
    assert drafted.bytes > 0
