"""The decode loop: equal to transformers' own, exact under drafts of every kind, well behaved when things go wrong."""

import threading

import pytest
import torch
from engine.scripted import Scripted
from helpers import random_tokens, tokens_of

from workbench.engine import Draft, generate, teacher_force
from workbench.errors import NumericalError, OutOfMemory, PromptError
from workbench.models.families import FAMILIES
from workbench.models.tiny import tiny

NEW = 32


def greedy(model, prompt, new=NEW):
    ids = torch.tensor([prompt])
    out = model.hf.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    return out[0, len(prompt) :].tolist()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("chunk", [None, 7])
def test_greedy_equals_transformers(family, chunk):
    model, prompt = tiny(family), random_tokens(20)
    steps = list(generate(model, prompt, max_new_tokens=NEW, stop_tokens=(), prefill_chunk=chunk))
    assert tokens_of(steps) == greedy(model, prompt)
    assert [step.phase for step in steps] == ["prefill"] + ["decode"] * (NEW - 1)
    assert steps[-1].keys_kept == (len(prompt) + NEW - 1,) * model.layers


@pytest.mark.parametrize("family", FAMILIES)
def test_teacher_forcing_gives_the_logits_of_the_model(family):
    model, prompt = tiny(family), random_tokens(20)
    continuation = random_tokens(9, seed=5)
    ours = torch.cat([rows.clone() for rows in teacher_force(model, prompt, continuation)])
    expected = model.hf(torch.tensor([prompt + continuation])).logits[0, len(prompt) - 1 : -1]
    torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_partly_right_chains_are_cut_where_they_go_wrong(family):
    """Every drafted chain is right up to a place that moves through 0, 1, 2, … and wrong from there."""
    model, prompt = tiny(family), random_tokens(20)
    truth = greedy(model, prompt, NEW)
    turn = iter(range(1000))

    def propose(tokens, limit):
        done = len(tokens) - len(prompt)
        right = truth[done : done + min(5, limit)]
        cut = next(turn) % 6
        return Draft([token if place < cut else (token + 1) % 96 for place, token in enumerate(right)])

    drafter = Scripted(propose)
    steps = list(generate(model, prompt, [drafter], max_new_tokens=NEW, stop_tokens=()))
    assert tokens_of(steps) == truth
    partly = [step for step in steps if 0 < step.accepted < step.drafted]
    assert partly, "no draft was accepted in part: the test shows nothing"
    for step, verification in zip(steps, drafter.verifications, strict=True):
        assert step.accepted == len(verification.path) and len(step.tokens) == step.accepted + 1


@pytest.mark.parametrize("family", FAMILIES)
def test_trees_keep_the_right_branch_and_forget_the_others(family):
    """The right branch comes second and leaves the chain order, so the cache must gather, not only crop."""
    model, prompt = tiny(family), random_tokens(20)
    truth = greedy(model, prompt, NEW)

    def propose(tokens, limit):
        right = truth[len(tokens) - len(prompt) :][: min(3, limit)]
        if len(right) < 3:
            return Draft()
        wrong = [(token + 1) % 96 for token in right]
        return Draft([wrong[0], right[0], wrong[1], right[1], right[2]], [-1, -1, 0, 1, 3])

    steps = list(generate(model, prompt, [Scripted(propose)], max_new_tokens=NEW, stop_tokens=()))
    assert tokens_of(steps) == truth
    assert max(step.accepted for step in steps) == 3
    assert steps[-1].keys_kept == (len(prompt) + NEW - 1,) * model.layers


@pytest.mark.parametrize("family", ["gemma2", "gemma3_text", "gpt_oss", "mistral", "olmo3"])
def test_a_tree_deeper_than_the_sliding_window_forgets_what_lies_outside(family):
    """A node's distance is its depth in the tree, not its place in the cache, which a sibling has moved."""
    model, prompt = tiny(family), random_tokens(4)
    truth = greedy(model, prompt, NEW)

    def propose(tokens, limit):
        right = truth[len(tokens) - len(prompt) :][:limit]
        wrong = [(right[0] + place) % 96 for place in (1, 2, 3)] if right else []
        return Draft([*wrong, *right], [-1] * (len(wrong) + 1) + list(range(len(wrong), len(wrong) + len(right) - 1)))

    steps = list(generate(model, prompt, [Scripted(propose)], max_new_tokens=NEW, stop_tokens=()))
    assert tokens_of(steps) == truth and steps[1].accepted == NEW - 2


def test_text_ends_at_a_stop_token_in_the_middle_of_a_draft():
    model, prompt = tiny("llama"), random_tokens(20)
    truth = greedy(model, prompt, NEW)
    stop = truth[6]
    expected = truth[: truth.index(stop) + 1]
    drafter = Scripted(lambda tokens, limit: Draft(truth[len(tokens) - len(prompt) :][: min(16, limit)]))
    steps = list(generate(model, prompt, [drafter], max_new_tokens=NEW, stop_tokens=(stop,)))
    assert tokens_of(steps) == expected
    assert len(steps) == 2 and steps[1].drafted > steps[1].accepted


def test_new_tokens_never_exceed_what_was_asked():
    model, prompt = tiny("llama"), random_tokens(20)
    truth = greedy(model, prompt, NEW)
    for wanted in (1, 2, 5, 6):
        drafter = Scripted(lambda tokens, limit: Draft(truth[len(tokens) - len(prompt) :][: min(4, limit)]))
        assert tokens_of(generate(model, prompt, [drafter], max_new_tokens=wanted, stop_tokens=())) == truth[:wanted]


def test_the_last_position_of_the_model_can_be_used():
    model = tiny("gpt2")
    prompt = random_tokens(model.anatomy.positions - 4)
    assert len(tokens_of(generate(model, prompt, max_new_tokens=5, stop_tokens=()))) == 5
    with pytest.raises(PromptError, match="at most 5"):
        generate(model, prompt, max_new_tokens=6)


@pytest.mark.parametrize(
    ("prompt", "message"), [([], "empty"), ([1, 500], "0 … 95"), ([5] * 257, "256"), ("words", "no tokenizer")]
)
def test_bad_prompts_are_refused_before_anything_runs(prompt, message):
    with pytest.raises(PromptError, match=message):
        generate(tiny("llama"), prompt)


def test_sampling_repeats_with_its_seed_and_differs_with_another():
    model, prompt = tiny("llama"), random_tokens(20)
    runs = [tokens_of(generate(model, prompt, max_new_tokens=24, temperature=1.0, seed=seed)) for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


def test_cancelling_ends_within_one_token():
    model, cancel, seen = tiny("llama"), threading.Event(), []
    for step in generate(model, random_tokens(20), max_new_tokens=NEW, stop_tokens=(), cancel=cancel):
        seen += step.tokens
        if len(seen) == 3:
            cancel.set()
    assert len(seen) == 3


def _state(model):
    return {name: parameter.clone() for name, parameter in model.hf.state_dict().items()}


@pytest.mark.parametrize("error", [ValueError("boom"), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_an_error_in_the_middle_leaves_the_model_as_it_was(error, monkeypatch, plain_steps):
    model, prompt = tiny("llama"), random_tokens(20)
    before, truth = _state(model), greedy(model, prompt)
    block = model.anatomy.blocks[2]
    original, calls = type(block).leave, []

    def leave(self, *args, **kwargs):
        calls.append(self.index)
        if self.index == 2 and len(calls) > 20:
            raise error
        return original(self, *args, **kwargs)

    monkeypatch.setattr(type(block), "leave", leave)
    seen = []
    with pytest.raises(OutOfMemory if "memory" in str(error) else ValueError):
        for step in generate(model, prompt, max_new_tokens=NEW, stop_tokens=()):
            seen += step.tokens
    monkeypatch.undo()
    assert seen == truth[: len(seen)] and seen
    assert all(torch.equal(value, before[name]) for name, value in _state(model).items())
    assert tokens_of(generate(model, prompt, max_new_tokens=NEW, stop_tokens=())) == truth


def test_nan_logits_are_an_error_with_advice(monkeypatch):
    model = tiny("llama")
    monkeypatch.setattr(model.anatomy, "unembed", lambda x: torch.full((x.shape[0], 96), float("nan")))
    with pytest.raises(NumericalError, match="float32"):
        list(generate(model, random_tokens(20), max_new_tokens=4))


@pytest.mark.bundled
@pytest.mark.parametrize("prompts", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_float32_greedy_equals_transformers_on_real_prompts(prompts, bundled):
    from workbench.tasks import encode_prompt, load_prompts

    for prompt in load_prompts("mixed", limit=prompts):
        ids = encode_prompt(bundled.tokenizer, prompt)[:120]
        ours = tokens_of(generate(bundled, ids, max_new_tokens=16))
        inputs = torch.tensor([ids])
        expected = bundled.hf.generate(
            inputs, attention_mask=torch.ones_like(inputs), max_new_tokens=16, do_sample=False, pad_token_id=2
        )[0, len(ids) :].tolist()
        assert ours == expected, prompt.id
