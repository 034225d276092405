"""The slot ``store`` in whole runs: with evictions and every drafter, through sessions, chunks and long texts."""

import pytest
import torch
from engine.scripted import Scripted
from engine.test_cancel_prefill import After
from helpers import random_tokens, run, tokens_of
from scaled import prompt_of, scaled
from toys.four_bit import FourBit
from toys.host import Host

import workbench.techniques  # noqa: F401  fills the registry
from workbench.engine import Decoder, Draft, generate, teacher_force
from workbench.engine.state import LayerCache
from workbench.errors import IncompatibleTechniques
from workbench.models.tiny import tiny
from workbench.registry import TECHNIQUES
from workbench.techniques import PromptLookup, SnapKV, StreamingLLM, TokenSelect

NEW = 24
PROMPT = random_tokens(24) * 2
DRAFTERS = [name for name, kind in TECHNIQUES.items() if "draft" in kind.slots and kind.exact]
STORES = [FourBit(), FourBit(by_channel=True), Host()]
stores = pytest.mark.parametrize("store", STORES, ids=["four_bit", "by_channel", "host"])


def four_bit_bytes(heads, width, packed, newest, room):
    """By the formula: half a byte for a number, two float32 for a group of four, the newest and their room in full."""
    numbers = 2 * heads * width
    return packed * (numbers // 2 + numbers // 4 * 8) + (newest + room) * numbers * 4


def test_snap_kv_and_four_bits_are_two_techniques_of_one_recipe():
    model, evict, store = tiny("llama"), SnapKV(keep=0.5, window=4), FourBit()
    block = model.anatomy.blocks[0]
    steps, alone = (run(model, PROMPT, each, NEW) for each in ([evict, store], [evict]))
    # What stays is decided by the one, and in what form by the other.
    assert [step.keys_kept for step in steps] == [step.keys_kept for step in alone]
    kept = len(PROMPT) // 2
    due = (kept - store.tail) // store.stride * store.stride
    expected = four_bit_bytes(block.kv_heads, block.head_dim, due, kept - due, store.stride)
    assert steps[0].cache_bytes == model.layers * expected
    entry = 2 * block.kv_heads * block.head_dim * 4
    assert alone[0].cache_bytes == model.layers * (kept + NEW) * entry
    assert all(step.cache_bytes < other.cache_bytes for step, other in zip(steps, alone))
    assert tokens_of(run(model, PROMPT, [store, evict], NEW)) == tokens_of(steps)


def test_a_pass_reads_the_bytes_that_are_stored():
    model, store = tiny("llama"), FourBit(tail=0, stride=4)
    counted = []
    for policies in ({}, {"store": store}):
        decoder = Decoder(model, 8, policies)
        decoder.prefill(PROMPT)
        decoder.reset_counts()
        decoder.forward([5])
        counted.append((decoder.bytes, [layer.entry_bytes for layer in decoder.cache.layers], decoder.flops))
    (dense, full, flops), (packed, encoded, same) = counted
    assert flops == same and encoded[0] < 0.7 * full[0]
    touched = len(PROMPT) + 2  # read, its own included, and written
    assert dense - packed == pytest.approx(touched * sum(a - b for a, b in zip(full, encoded)), abs=model.layers)
    held = decoder.cache.bytes_by()
    assert held["keys 4-bit", "cpu"] == held["values 4-bit", "cpu"]
    assert sum(held.values()) == decoder.cache.bytes


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "mixtral", "gpt_oss", "gemma2"])
def test_another_place_changes_no_text(family):
    model = tiny(family)
    baseline = tokens_of(run(model, PROMPT, [], NEW))
    assert tokens_of(run(model, PROMPT, [Host()], NEW)) == baseline
    assert tokens_of(run(model, PROMPT, [Host()], NEW, prefill_chunk=7)) == baseline
    assert tokens_of(run(model, PROMPT, [Host(), PromptLookup()], NEW)) == baseline
    both = tokens_of(run(model, PROMPT, [Host(), SnapKV(keep=0.5, window=4)], NEW))
    assert both == tokens_of(run(model, PROMPT, [SnapKV(keep=0.5, window=4)], NEW))


@pytest.mark.parametrize("name", TECHNIQUES)
def test_no_technique_sees_where_entries_are(name):
    """What reads, evicts, rewrites or chooses entries does it through the state, so that the place changes no text."""
    model, technique = tiny("llama"), TECHNIQUES[name].examples()[0]
    steps, alone = (run(model, PROMPT, each, NEW) for each in ([technique, Host()], [technique]))
    assert tokens_of(steps) == tokens_of(alone)
    if "draft" not in technique.slots:
        assert [step.keys_kept for step in steps] == [step.keys_kept for step in alone]
        assert [step.keys_read for step in steps] == [step.keys_read for step in alone]


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_a_tail_that_holds_everything_is_the_baseline(family):
    model = tiny(family)
    assert tokens_of(run(model, PROMPT, [FourBit.neutral()], NEW)) == tokens_of(run(model, PROMPT, [], NEW))


def test_four_bits_are_no_baseline():
    """What the other tests would not see otherwise: the toy loses something, and more where it encodes more."""
    model = tiny("llama")
    continuation = random_tokens(NEW, seed=7)
    exact, near, far = (
        torch.cat([rows.clone() for rows in teacher_force(model, PROMPT, continuation, each)])
        for each in ([], [FourBit(tail=32)], [FourBit(tail=0)])
    )
    errors = [float((logits - exact).abs().mean()) for logits in (near, far)]
    assert 0 < errors[0] < errors[1] < 0.5 * float(exact.std())


@stores
@pytest.mark.parametrize("name", DRAFTERS)
def test_every_drafter_writes_what_the_store_alone_writes(name, store):
    model, technique = tiny("llama"), TECHNIQUES[name].examples()[0]
    steps = run(model, PROMPT, [technique, store], NEW)
    assert tokens_of(steps) == tokens_of(run(model, PROMPT, [store], NEW))


@stores
@pytest.mark.parametrize("family", ["gemma3_text", "gpt2", "mixtral"])
@pytest.mark.parametrize("name", ["prompt_lookup", "token_recycling", "retrieval_cache_draft"])
def test_drafts_on_a_store_are_exact_in_other_families(name, family, store):
    model, technique = tiny(family), TECHNIQUES[name].examples()[0]
    assert tokens_of(run(model, PROMPT, [technique, store], NEW)) == tokens_of(run(model, PROMPT, [store], NEW))


@stores
@pytest.mark.parametrize("tree", [False, True])
def test_a_drafted_token_reads_what_it_would_have_read_alone(store, tree):
    """Drafts that are always right and as long as they may be; logits, as a text hides small differences."""
    model = tiny("llama")
    alone = list(generate(model, PROMPT, [store], max_new_tokens=NEW, stop_tokens=(), logits=True))
    truth = tokens_of(alone)

    def propose(tokens, limit):
        coming = truth[len(tokens) - len(PROMPT) :][:limit]
        if not tree:
            return Draft(coming)
        # Beside every right token a wrong one, so that what is kept stands apart.
        nodes = [token for right in coming for token in ((right + 1) % 96, right)]
        return Draft(nodes, [2 * (place // 2) - 1 for place in range(len(nodes))])

    drafter = Scripted(propose)
    drafted = list(generate(model, PROMPT, [store, drafter], max_new_tokens=NEW, stop_tokens=(), logits=True))
    assert len(drafted) < NEW / 2 and tokens_of(drafted) == truth
    logits = [torch.cat([step.logits for step in steps]) for steps in (drafted, alone)]
    torch.testing.assert_close(*logits, rtol=1e-5, atol=1e-5)


def test_drafts_are_made_where_there_is_room():
    """A draft ends before the tokens that would be encoded under it, and begins again behind them."""
    steps = run(tiny("llama"), random_tokens(6) * 8, [PromptLookup(), FourBit(stride=8)], NEW)
    assert any(step.drafted for step in steps) and max(step.drafted for step in steps) < 8


@stores
@pytest.mark.parametrize("other", [StreamingLLM(sinks=2, window=8), TokenSelect(k=6, sinks=2, recent=4)])
def test_what_rewrites_and_chooses_entries_works_in_any_form(other, store):
    model = tiny("llama")
    steps = run(model, PROMPT, [other, store], NEW)
    alone = run(model, PROMPT, [other], NEW)
    assert [step.keys_kept for step in steps] == [step.keys_kept for step in alone]
    if isinstance(store, Host):
        assert tokens_of(steps) == tokens_of(alone)


@stores
def test_a_free_run_and_a_teacher_forced_one_are_the_same_run(store):
    model = tiny("llama")
    said = tokens_of(run(model, PROMPT, [store], NEW))
    forced = torch.cat([rows.clone() for rows in teacher_force(model, PROMPT, said, [store])])
    assert forced.argmax(-1).tolist() == said


@stores
@pytest.mark.parametrize("drafter", [None, PromptLookup()])
def test_a_session_goes_on_in_the_same_form(store, drafter):
    model, techniques = tiny("llama"), [store] if drafter is None else [store, drafter]
    first = generate(model, PROMPT, techniques, max_new_tokens=9, stop_tokens=())
    said = tokens_of(first)
    rest = tokens_of(generate(model, [], techniques, max_new_tokens=NEW - 9, stop_tokens=(), past=first.state))
    assert [*said, *rest] == tokens_of(run(model, PROMPT, [store], NEW))
    forms = {layer.form for cache in first.state.caches.values() for layer in cache.layers}
    assert forms == {store.state(0, None, 1).form}


def test_a_session_takes_the_form_of_each_run():
    model = tiny("llama")
    first = generate(model, PROMPT, [Host()], max_new_tokens=9, stop_tokens=())
    said = tokens_of(first)
    second = generate(model, [], [], max_new_tokens=7, stop_tokens=(), past=first.state)
    said += tokens_of(second)
    assert all(isinstance(layer, LayerCache) for layer in second.state.caches[second.state.model].layers)
    third = generate(model, [], [Host()], max_new_tokens=NEW - 16, stop_tokens=(), past=second.state)
    assert [*said, *tokens_of(third)] == tokens_of(run(model, PROMPT, [], NEW))
    assert third.state.caches[third.state.model].layers[0].packed > 0


@stores
def test_a_text_that_is_computed_anew_is_stored_anew(store):
    """Long-rope: in the middle of the text all keys are rotated with other factors."""
    phi, prompt = scaled("longrope", "phi3"), prompt_of(40)
    written = tokens_of(run(phi, prompt, [store], 30))
    if isinstance(store, Host):
        assert written == tokens_of(run(phi, prompt, [], 30))
    assert tokens_of(run(phi, prompt, [store, PromptLookup()], 30)) == written


@stores
def test_a_prompt_that_is_cancelled_between_chunks_leaves_a_state(store):
    model = tiny("llama")
    options = {"max_new_tokens": 5, "stop_tokens": (), "prefill_chunk": 8}
    stream = generate(model, PROMPT, [store], cancel=After(3), **options)
    assert list(stream) == [] and stream.state.cached == 0
    again = tokens_of(generate(model, [], [store], past=stream.state, **options))
    assert again == tokens_of(generate(model, PROMPT, [store], **options))


def test_two_stores_clash():
    with pytest.raises(IncompatibleTechniques, match="'store'"):
        generate(tiny("llama"), PROMPT, [FourBit(), Host()])
