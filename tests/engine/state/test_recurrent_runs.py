"""Whole runs of a model with recurrent layers: every drafter, sessions, chunks, evictions and stores."""

from dataclasses import replace

import pytest
import torch
from engine.test_cancel_prefill import After
from helpers import random_tokens, run, tokens_of
from toys.four_bit import FourBit
from toys.host import Host
from toys.recurrent import with_recurrent_layers

import workbench.techniques  # noqa: F401  fills the registry
from workbench.engine import Decoder, generate, teacher_force
from workbench.engine.state import RecurrentState
from workbench.models.tiny import tiny
from workbench.registry import TECHNIQUES
from workbench.techniques import DraftModel, PromptLookup, SnapKV, StreamingLLM, TokenRecycling, TokenSelect

NEW = 20
PROMPT, MORE = random_tokens(20) * 2, random_tokens(7, seed=3)
DRAFTERS = [name for name, kind in TECHNIQUES.items() if "draft" in kind.slots and kind.exact]


@pytest.fixture(scope="module")
def model():
    return with_recurrent_layers(tiny("llama"))


@pytest.fixture(scope="module")
def written(model):
    return tokens_of(run(model, PROMPT, [], NEW))


def slow(model, tokens):
    """Logits [tokens, vocabulary] of a whole text, block by block, without caches."""
    anatomy = model.anatomy
    positions = torch.arange(len(tokens))
    x, ropes = anatomy.embed(torch.tensor([tokens]), positions), anatomy.rope(positions)
    for block in anatomy.blocks:
        if block.mixer.recurrent:
            x = block.add(x, block.advance(x, RecurrentState(block.mixer.new_state())))
            continue
        query, key, value = block.enter(x, ropes.get(block.rope_kind))
        causal = torch.ones(len(tokens), len(tokens)).triu(1).bool()
        x = block.leave(x, block.scoring.attend(query, key, value, causal))
    return anatomy.unembed(x[0])


@torch.inference_mode()
@pytest.mark.parametrize("chunk", [None, 7, 1])
def test_a_prompt_and_tokens_after_it_are_those_of_the_whole_text(model, chunk):
    text = random_tokens(30)
    decoder = Decoder(model)
    logits = [decoder.prefill(text[:24], chunk, "all"), *(decoder.forward([token]) for token in text[24:])]
    torch.testing.assert_close(torch.cat(logits), slow(model, text), rtol=1e-4, atol=1e-4)
    assert decoder.cache.keys_kept() == (30, 0, 0, 30)
    assert decoder.keys_read[-model.layers :] == [30.0, 0.0, 0.0, 30.0]


@torch.inference_mode()
@pytest.mark.parametrize("parents", [None, [-1, 0, 0, 1, 2, 2]])
def test_drafted_rows_are_those_of_their_paths(model, parents):
    decoder, drafted = Decoder(model), random_tokens(6, seed=5)
    decoder.prefill(PROMPT)
    logits = decoder.forward(drafted, parents, "all")
    for row in range(6):
        path, node = [], row
        while node >= 0:
            path.insert(0, drafted[node])
            node = node - 1 if parents is None else parents[node]
        torch.testing.assert_close(logits[row], slow(model, [*PROMPT, *path])[-1], rtol=1e-4, atol=1e-4)
    kept = [0, 1] if parents is None else [0, 2, 5]
    decoder.cache.commit(6, kept)
    after = decoder.forward([7])[0]
    text = [*PROMPT, *(drafted[row] for row in kept), 7]
    torch.testing.assert_close(after, slow(model, text)[-1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", DRAFTERS)
def test_every_drafter_writes_what_the_model_alone_writes(name, model, written):
    for technique in TECHNIQUES[name].examples():
        # Of three layers of this model one is recurrent, of two none is.
        recurrent = {"model": "/3"} if getattr(technique, "model", "") == "/2" else {}
        each = replace(technique, **recurrent)
        assert tokens_of(run(model, PROMPT, [each], NEW)) == written, each


def test_a_recurrent_draft_model_goes_back_without_reading_the_text_anew(model, monkeypatch):
    seen, forward = [], Decoder.forward

    def counted(self, tokens, *arguments, **options):
        if self.model is not model:
            seen.append(len(tokens))
        return forward(self, tokens, *arguments, **options)

    monkeypatch.setattr(Decoder, "forward", counted)
    steps = run(model, PROMPT, [DraftModel(model="/3", draft=4)], NEW)
    assert any(step.accepted < step.drafted for step in steps), "nothing was taken back"
    assert seen[0] > len(PROMPT) and max(seen[1:]) <= 5 and len(seen) > NEW


@pytest.mark.parametrize(
    "techniques",
    [
        [SnapKV(keep=0.5, window=4)],
        [StreamingLLM(sinks=2, window=8)],
        [TokenSelect(k=6, sinks=2, recent=4)],
        [FourBit()],
        [SnapKV(keep=0.5, window=4), FourBit(tail=0)],
    ],
    ids=["snap_kv", "streaming_llm", "token_select", "four_bit", "both"],
)
def test_evictions_and_stores_act_on_the_layers_that_have_entries(techniques, model, written):
    steps = run(model, PROMPT, techniques, NEW)
    assert [step.keys_kept[1:3] for step in steps] == [(0, 0)] * len(steps)
    stepwise = any(each.stepwise for each in techniques)
    for drafter in [] if stepwise else [PromptLookup(), TokenRecycling()]:
        assert tokens_of(run(model, PROMPT, [*techniques, drafter], NEW)) == tokens_of(steps)
    assert tokens_of(run(model, PROMPT, [Host()], NEW)) == written


def test_bytes_are_those_of_entries_and_states(model):
    step = run(model, PROMPT, [], NEW)[0]
    block, mixer = model.anatomy.blocks[0], model.anatomy.blocks[1].mixer
    entry, state = 2 * block.kv_heads * block.head_dim * 4, mixer.new_state()["memory"].numel() * 4
    # After a prompt in one piece the state before it is still there.
    assert step.cache_bytes == 2 * (len(PROMPT) + NEW) * entry + 2 * 2 * state


def test_a_free_run_and_a_teacher_forced_one_are_the_same_run(model, written):
    forced = torch.cat([rows.clone() for rows in teacher_force(model, PROMPT, written)])
    assert forced.argmax(-1).tolist() == written


@pytest.mark.parametrize("techniques", [[], [PromptLookup()], [Host()]], ids=["alone", "drafts", "host"])
def test_a_session_goes_on(techniques, model, written):
    first = generate(model, PROMPT, techniques, max_new_tokens=9, stop_tokens=())
    said = tokens_of(first)
    for _ in range(2):
        rest = generate(model, [], techniques, max_new_tokens=NEW - 9, stop_tokens=(), past=first.state)
        assert [*said, *tokens_of(rest)] == written
    second = generate(model, MORE, techniques, max_new_tokens=5, stop_tokens=(), past=first.state)
    assert tokens_of(second) == tokens_of(run(model, [*PROMPT, *said, *MORE], [], 5))
    assert "sha256" in second.state.describe()


def test_a_prompt_that_is_cancelled_between_chunks_is_read_again(model, written):
    options = {"max_new_tokens": NEW, "stop_tokens": (), "prefill_chunk": 8}
    stream = generate(model, PROMPT, [], cancel=After(3), **options)
    assert list(stream) == [] and stream.state.cached == 0
    assert tokens_of(generate(model, [], [], past=stream.state, **options)) == written


def test_a_context_and_its_question_are_the_prompt(model, written):
    for context in (8, 30):
        assert tokens_of(run(model, PROMPT, [], NEW, context_tokens=context)) == written
