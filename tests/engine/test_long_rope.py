"""Texts that outgrow the short rotary factors: one set of factors for a text, whatever the techniques."""

import pytest
import torch
from engine.scripted import Scripted
from helpers import random_tokens, tokens_of
from scaled import SWITCH, expected, prompt_of, scaled

import workbench.techniques  # noqa: F401  fills the registry
from workbench.engine import Decoder, Draft, Run, Sampler, generate, score, teacher_force
from workbench.errors import PromptError, SettingError
from workbench.registry import TECHNIQUES
from workbench.techniques import (
    DraftModel,
    EntropyAdaptive,
    PromptLookup,
    RandomEviction,
    RetrievalCacheDraft,
    SnapKV,
    StreamingLLM,
    TokenSelect,
)
from workbench.techniques.draft import _model_drafter as drafters
from workbench.techniques.draft._model_drafter import ModelDrafter
from workbench_kernels.arithmetic import compiled

NEW = 40
PROMPT = prompt_of(40)
EXACT = [(name, place) for name, kind in TECHNIQUES.items() if kind.exact for place in range(len(kind.examples()))]
EVICTING = [SnapKV(keep=0.4, window=4), RandomEviction(keep=0.4, window=4), StreamingLLM(sinks=2, window=8)]


@pytest.fixture(scope="module")
def phi():
    return scaled("longrope", "phi3")


def written(model, prompt=PROMPT, techniques=(), new=NEW, **options):
    return tokens_of(generate(model, prompt, list(techniques), max_new_tokens=new, stop_tokens=(), **options))


@pytest.mark.parametrize("seed", range(5))
def test_the_text_is_transformers_own(phi, seed):
    prompt = prompt_of(40, seed)
    assert written(phi, prompt) == expected(phi, prompt, NEW)


def test_the_models_factors_matter(phi):
    """Without the switch the text would be another: what the other tests would not see otherwise."""
    decoder, text = Decoder(phi), list(PROMPT)
    logits = decoder.prefill(PROMPT)
    for _ in range(NEW):
        text.append(int(logits[0].argmax()))
        logits = decoder.forward(text[-1:])
    assert text[len(PROMPT) :] != expected(phi, PROMPT, NEW)


@pytest.mark.parametrize("length", [47, 48, 49, 60])
@pytest.mark.parametrize("chunk", [None, 16, 1])
def test_chunks_of_a_prompt_leave_the_text(phi, length, chunk):
    prompt = prompt_of(length)
    assert written(phi, prompt, prefill_chunk=chunk) == expected(phi, prompt, NEW)


@pytest.mark.parametrize(("name", "place"), EXACT)
def test_what_is_exact_stays_exact(phi, name, place):
    technique = TECHNIQUES[name].examples()[place]
    try:
        found = written(phi, PROMPT, [technique], prefill_chunk=16)
    except SettingError as error:
        pytest.skip(f"does not apply: {error}")
    assert found == expected(phi, PROMPT, NEW)


def drafts(model, prompt, right):
    """A drafter that always knows what is said, or never; and how long its drafts are allowed to be."""
    truth, limits = expected(model, prompt, NEW), []

    def propose(tokens, limit):
        limits.append((len(tokens), limit))
        coming = truth[len(tokens) - len(prompt) :][: min(6, limit)]
        return Draft(coming if right else [(token + 1) % 96 for token in coming])

    return Scripted(propose), limits


@pytest.mark.parametrize("right", [True, False])
@pytest.mark.parametrize("length", [40, 47, 48, 49])
def test_no_draft_straddles_the_switch(phi, length, right):
    prompt = prompt_of(length)
    drafter, limits = drafts(phi, prompt, right)
    assert written(phi, prompt, [drafter]) == expected(phi, prompt, NEW)
    assert all(tokens > SWITCH or tokens + limit <= SWITCH for tokens, limit in limits)
    assert any(tokens > SWITCH and limit > 6 for tokens, limit in limits)


@pytest.mark.parametrize("paths", [1, 3])
def test_a_draft_models_own_factors_are_its_own(phi, paths, monkeypatch):
    """A drafter that is the model itself is always right, on both sides of the switch."""
    # Another model object, so that its cache is not the model's.
    monkeypatch.setattr(drafters, "drafter_model", lambda main, name: phi.shallow(phi.layers))
    steps = list(generate(phi, PROMPT, [DraftModel(draft=4, paths=paths)], max_new_tokens=NEW, stop_tokens=()))
    assert tokens_of(steps) == expected(phi, PROMPT, NEW)
    assert all(step.accepted == step.drafted for step in steps)


def test_a_draft_model_with_a_switch_of_its_own(phi, monkeypatch):
    """The drafter goes over its switch in the middle of drafts that are all rejected, and back."""
    main = scaled("longrope")
    monkeypatch.setattr(drafters, "drafter_model", lambda *_: phi)
    for technique in (DraftModel(draft=5), TECHNIQUES["superposed_drafts"].examples()[0]):
        assert written(main, PROMPT, [technique]) == expected(main, PROMPT, NEW)


def test_a_drafter_drafts_what_it_would_write(phi):
    """Over its own switch and back: every chain is the draft model's own greedy text."""
    held = ModelDrafter(phi)
    for length, draft in ((46, 6), (47, 6), (60, 3), (44, 8), (40, 2), (48, 4)):
        text = list(prompt_of(60)[:length])
        chain = held.chain(held.follow(text), Sampler(), draft)
        assert chain.tokens == expected(phi, tuple(text), draft)


@pytest.mark.parametrize("technique", EVICTING, ids=lambda each: each.name)
def test_what_evicts_evicts_anew_at_the_switch(phi, technique):
    """From the switch on the run is the one that a text read with the long factors would have had."""
    steps = list(generate(phi, PROMPT, [technique], max_new_tokens=NEW, stop_tokens=()))
    said = tokens_of(steps)
    at = SWITCH + 1 - len(PROMPT)
    before, after = steps[at - 1], steps[at]
    assert max(after.keys_kept) <= max(before.keys_kept) + 1
    assert after.forwards > before.forwards == 1
    if technique.name == "snap_kv":
        text = [*PROMPT, *said[:at]]
        run = Run(phi, tuple(text), NEW, Sampler(), 0)
        decoder = Decoder(phi, 0, {"evict": technique.start(run)})
        logits = decoder.prefill(text, context=len(PROMPT))
        for token in said[at:]:
            assert int(logits[0].argmax()) == token
            logits = decoder.forward([token])


@pytest.mark.parametrize("technique", [*EVICTING, TokenSelect(k=6, sinks=2, recent=4)], ids=lambda each: each.name)
def test_neutral_settings_are_the_baseline_over_the_switch(phi, technique):
    neutral = type(technique).neutral()
    assert written(phi, PROMPT, [neutral]) == expected(phi, PROMPT, NEW)


def test_two_models_in_turn_are_right_on_both_sides(phi):
    neutral = written(phi, PROMPT, [EntropyAdaptive(small="/2", threshold=0.0)])
    assert neutral == expected(phi, PROMPT, NEW)
    # The small model takes over beyond the switch, having read nothing yet.
    switched = list(
        generate(
            phi,
            prompt_of(46),
            [EntropyAdaptive(small="/2", threshold=32.0, dwell=8, window=1)],
            max_new_tokens=NEW,
            stop_tokens=(),
        )
    )
    assert {step.model for step in switched} == {phi.name, f"{phi.name}/2"}
    assert tokens_of(switched) == expected(phi, prompt_of(46), NEW)


@pytest.mark.parametrize("techniques", [[], [SnapKV.neutral()], [TokenSelect.neutral()]])
def test_teacher_forcing_sees_what_a_run_sees(phi, techniques):
    continuation = random_tokens(NEW, seed=7)
    forced = torch.cat([rows.clone() for rows in teacher_force(phi, PROMPT, continuation, techniques)])
    for place in range(NEW):
        text = [*PROMPT, *continuation[:place]]
        alone = Decoder(phi).prefill(text)[0]
        torch.testing.assert_close(forced[place], alone, rtol=1e-3, atol=1e-3)
    assert len(forced) == NEW


def test_a_text_in_a_batch_scores_as_alone(phi):
    texts = [random_tokens(20, 3), random_tokens(100, 4), random_tokens(48, 5), random_tokens(49, 6)]
    for text, logits in zip(texts, score(phi, texts), strict=True):
        torch.testing.assert_close(logits, phi.hf(torch.tensor([text])).logits[0], rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(logits, score(phi, [text])[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("first", [3, 8, 9, 10, 30])
def test_turns_are_the_run_over_the_whole_text(phi, first):
    stream = generate(phi, PROMPT, max_new_tokens=first, stop_tokens=())
    said = tokens_of(stream)
    more = random_tokens(6, seed=4)
    whole = expected(phi, (*PROMPT, *said, *more), NEW)
    assert written(phi, more, past=stream.state) == whole
    assert said + written(phi, [], new=NEW - first, past=stream.state) == expected(phi, PROMPT, NEW)


class SetAfter:
    """An event that is set once it was looked at so many times."""

    def __init__(self, times):
        self._left = times

    def is_set(self):
        self._left -= 1
        return self._left < 0


@pytest.mark.parametrize("techniques", [[], [PromptLookup()]])
def test_a_run_that_is_cancelled_while_it_reads_anew_can_go_on(phi, techniques):
    lengths = set()
    for times in range(8, 34, 2):
        options = {"stop_tokens": (), "prefill_chunk": 4, "cancel": SetAfter(times)}
        stream = generate(phi, prompt_of(46), techniques, NEW, **options)
        said = tokens_of(stream)
        lengths.add((len(said), stream.state.cached))
        assert said + written(phi, [], new=NEW - len(said), past=stream.state) == expected(phi, prompt_of(46), NEW)
    # Before it, in the midst of it, and after it.
    assert {(3, 0)} < lengths


def test_a_state_with_gaps_does_not_go_over_the_switch(phi):
    stream = generate(phi, PROMPT, [SnapKV(keep=0.4, window=4)], max_new_tokens=4, stop_tokens=())
    list(stream)
    with pytest.raises(PromptError, match=r"lost entries.*48 tokens: ask for at most 2 new tokens"):
        generate(phi, [5, 6, 7], past=stream.state, max_new_tokens=3)
    assert len(written(phi, [5, 6, 7], new=2, past=stream.state)) == 2
    with pytest.raises(PromptError, match="48 tokens: begin without"):
        generate(phi, [5] * 9, past=stream.state, max_new_tokens=1)


def test_the_middle_tier_retrieves_from_the_cache_that_is(phi):
    technique = RetrievalCacheDraft(draft=4, budget=256, chunk=8, model="none", refresh=1000)
    steps = list(generate(phi, PROMPT, [technique], max_new_tokens=NEW, stop_tokens=()))
    assert tokens_of(steps) == expected(phi, PROMPT, NEW)
    # Over everything it retrieves, it is the model itself; but for the step that has just computed its cache anew.
    (anew,) = (step.index for step in steps[1:] if step.forwards > 1)
    assert all(step.accepted == step.drafted for step in steps if step.index != anew)
    assert any(step.drafted for step in steps if step.index > anew)


@pytest.mark.parametrize(
    "options",
    [
        {"context_tokens": 10},
        pytest.param({"compiled": True}, marks=pytest.mark.slow),
        {"context_tokens": 39, "prefill_chunk": 6},
    ],
)
def test_options_of_a_run_leave_the_text(phi, options):
    assert written(phi, PROMPT, **options) == expected(phi, PROMPT, NEW)


@pytest.mark.skipif(not compiled(torch.bfloat16), reason="nothing is compiled here: no such promise is made")
@pytest.mark.parametrize(
    ("kind", "family", "length"), [("longrope", "phi3", 40), ("longrope", "llama", 40), ("dynamic", "llama", 25)]
)
def test_every_logit_is_bit_for_bit_the_baselines(kind, family, length):
    model, prompt = scaled(kind, family, dtype=torch.bfloat16), prompt_of(length)

    def logits(techniques=(), **options):
        steps = generate(model, prompt, list(techniques), 30, stop_tokens=(), logits=True, **options)
        return torch.cat([step.logits for step in steps])

    plain = logits()
    for options in ({"prefill_chunk": 7}, {"context_tokens": 13}):
        assert torch.equal(logits(**options), plain)
    for technique in (PromptLookup(), DraftModel(model="/2", draft=5), TECHNIQUES["dynamic_tree"].examples()[0]):
        assert torch.equal(logits([technique]), plain)


def test_sampling_draws_the_same_over_the_switch(phi):
    plain = written(phi, PROMPT, temperature=0.8, seed=3)
    assert plain == written(phi, PROMPT, temperature=0.8, seed=3, prefill_chunk=7)
