"""Compress after the context, then ask: what is evicted cannot depend on the question, and shows in every answer."""

import pytest
import torch
from helpers import random_tokens, run, tokens_of

from workbench.engine import Decoder, generate, teacher_force
from workbench.errors import PromptError
from workbench.models.families import FAMILIES
from workbench.models.tiny import tiny
from workbench.registry import TECHNIQUES
from workbench.techniques import PromptLookup, RandomEviction, SnapKV, StreamingLLM, TokenSelect
from workbench_kernels.arithmetic import compiled, unavailable

PROMPT = random_tokens(24) * 2
CONTEXT = 37
NEW = 16
EXACT = [name for name, kind in TECHNIQUES.items() if kind.exact]


def first_row(model, techniques, context_tokens):
    return next(iter(teacher_force(model, PROMPT, [5], techniques, context_tokens=context_tokens)))[0].clone()


@pytest.mark.parametrize("chunk", [None, 7])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_baseline_is_the_same_with_and_without(family, chunk):
    whole = tokens_of(run(tiny(family), PROMPT, new=NEW))
    assert tokens_of(run(tiny(family), PROMPT, new=NEW, context_tokens=CONTEXT, prefill_chunk=chunk)) == whole


def test_a_question_has_its_room_beside_the_context():
    whole, parts = (run(tiny("llama"), PROMPT, new=NEW, context_tokens=each) for each in (None, CONTEXT))
    assert [step.cache_bytes for step in parts] == [step.cache_bytes for step in whole]


def test_a_likelihood_that_eviction_could_not_touch_now_differs():
    """With the question seen the first answer token comes from full attention, whatever is evicted."""
    model, eviction = tiny("llama"), [SnapKV(keep=0.3, window=4)]
    assert torch.equal(first_row(model, eviction, None), first_row(model, [], None))
    baseline = first_row(model, [], CONTEXT)
    torch.testing.assert_close(baseline, first_row(model, [], None), rtol=1e-4, atol=1e-4)
    for technique in (SnapKV(keep=0.3, window=4), RandomEviction(keep=0.3, window=4), StreamingLLM(sinks=2, window=8)):
        changed = first_row(model, [technique], CONTEXT)
        assert float((changed.log_softmax(-1) - baseline.log_softmax(-1)).abs().max()) > 1e-2, technique


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt2"])
def test_the_context_is_compressed_as_if_no_question_followed(family):
    """SnapKV's window is the end of the context, and the question stands behind what is left of it, whole."""
    model, technique = tiny(family), SnapKV(keep=0.3, window=4)
    alone = Decoder(model, 0, {"evict": technique.start(_run(model))})
    alone.prefill(PROMPT[:CONTEXT])
    asked = Decoder(model, 0, {"evict": technique.start(_run(model))})
    asked.prefill(PROMPT, context=CONTEXT)
    question = torch.arange(CONTEXT, len(PROMPT))
    for one, other in zip(alone.cache.layers, asked.cache.layers, strict=True):
        assert one.length == 12 and other.length == 12 + len(question)
        assert torch.equal(one.positions, other.positions[:, :12])
        assert torch.equal(other.positions[:, 12:], question.expand(other.positions.shape[0], -1))


def _run(model):
    from workbench.engine import Run, Sampler

    return Run(model, tuple(PROMPT), 4, Sampler(), 0)


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_it_is_the_same_run_fed_by_hand(family):
    """Prefill and compress the context, feed the question token by token, then decode greedily."""
    model = tiny(family)
    decoder = Decoder(model, 0, {"evict": SnapKV(keep=0.3, window=4).start(_run(model))})
    decoder.prefill(PROMPT[:CONTEXT])
    for token in PROMPT[CONTEXT:]:
        logits = decoder.forward([token])
    expected = []
    for _ in range(NEW):
        expected.append(int(logits[0].argmax()))
        logits = decoder.forward(expected[-1:])
    assert tokens_of(run(model, PROMPT, [SnapKV(keep=0.3, window=4)], NEW, context_tokens=CONTEXT)) == expected


@pytest.mark.parametrize("family", ["llama", "mistral"])
@pytest.mark.parametrize("name", EXACT)
def test_exact_techniques_stay_exact(name, family):
    model, evict = tiny(family), RandomEviction(keep=0.5, window=4)
    technique = TECHNIQUES[name].examples()[0]
    whole = tokens_of(run(model, PROMPT, [], NEW))
    assert tokens_of(run(model, PROMPT, [technique], NEW, context_tokens=CONTEXT)) == whole
    evicted = tokens_of(run(model, PROMPT, [evict], NEW, context_tokens=CONTEXT))
    assert evicted != whole, "the eviction changed nothing: the test shows nothing"
    assert tokens_of(run(model, PROMPT, [technique, evict], NEW, context_tokens=CONTEXT)) == evicted


def test_drafters_are_told_of_every_prompt_token():
    from engine.scripted import Scripted

    from workbench.engine import Draft

    drafter = Scripted(lambda tokens, limit: Draft())
    list(generate(tiny("llama"), PROMPT, [drafter], max_new_tokens=2, context_tokens=CONTEXT, prefill_chunk=10))
    assert drafter.verifications[0].hidden.shape[0] == len(PROMPT)


def test_selection_begins_with_the_first_generated_token_as_ever():
    steps = run(tiny("llama"), PROMPT, [TokenSelect(k=4, sinks=1, recent=2)], 4, context_tokens=CONTEXT)
    plain = run(tiny("llama"), PROMPT, [], 4, context_tokens=CONTEXT)
    assert steps[0].keys_read == plain[0].keys_read and sum(steps[1].keys_read) < sum(plain[1].keys_read)


def test_the_context_slot_acts_on_the_context_alone():
    from typing import ClassVar

    class EveryOther:
        slots: ClassVar = ("context",)
        excludes: ClassVar = ()
        stepwise = False

        def start(self, run):
            self.asked = []
            return self

        def select(self, layer, x, positions):
            self.asked.append(int(positions[-1]))
            return torch.arange(0, x.shape[1], 2) if layer == 2 else None

    technique = EveryOther()
    steps = list(generate(tiny("llama"), PROMPT, [technique], max_new_tokens=1, context_tokens=CONTEXT))
    assert set(technique.asked) == {CONTEXT - 1}
    assert steps[0].keys_kept == (48, 48, 19 + 11, 19 + 11)


@pytest.mark.parametrize("wrong", [0, -1, len(PROMPT), 1000])
def test_a_context_that_is_none_is_refused_before_anything_runs(wrong):
    for attempt in (
        lambda: generate(tiny("llama"), PROMPT, context_tokens=wrong),
        lambda: teacher_force(tiny("llama"), PROMPT, [5], context_tokens=wrong),
    ):
        with pytest.raises(PromptError, match=r"context_tokens must leave .* 1 … 47"):
            attempt()
    with pytest.raises(PromptError, match="no two parts"):
        generate(tiny("llama"), [5], context_tokens=1)


def test_a_free_run_and_a_teacher_forced_one_are_the_same_run():
    model = tiny("llama")
    for techniques in ([SnapKV(keep=0.3, window=4)], [StreamingLLM(sinks=2, window=8)], [PromptLookup()]):
        said = tokens_of(run(model, PROMPT, techniques, NEW, context_tokens=CONTEXT))
        rows = torch.cat([r.clone() for r in teacher_force(model, PROMPT, said, techniques, context_tokens=CONTEXT)])
        assert rows.argmax(-1).tolist() == said


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_with_the_compiled_kernels_the_baseline_is_the_same_bit_for_bit(family, dtype):
    if not compiled(dtype):
        pytest.skip(f"nothing is compiled here: {unavailable(dtype)}")
    # In bfloat16 the router of the first tiny Mixtral stands at near ties, and its proof does not pass.
    model = tiny(family, seed=4, dtype=dtype)
    whole, parts = (
        torch.cat([rows.clone() for rows in teacher_force(model, PROMPT, PROMPT[:9], context_tokens=each)])
        for each in (None, CONTEXT)
    )
    assert torch.equal(whole, parts)
    first = generate(model, PROMPT[:CONTEXT], max_new_tokens=5, stop_tokens=())
    said = tokens_of(first)
    on = tokens_of(generate(model, PROMPT, max_new_tokens=9, stop_tokens=(), past=first.state))
    assert on == tokens_of(generate(model, [*PROMPT[:CONTEXT], *said, *PROMPT], max_new_tokens=9, stop_tokens=()))
