"""One recipe on one prompt."""

import threading

import pytest
import torch

from workbench import generate, trace
from workbench.errors import PromptError
from workbench.studies import run as module
from workbench.studies.run import recipe, run
from workbench.techniques import PromptLookup

PROMPT = [1, 5, 6, 7, 5, 6, 7, 5, 6]


def test_it_is_generate_from_beginning_to_end(tiny):
    model = tiny("llama")
    found = run(model, PROMPT, [PromptLookup()], max_new_tokens=12, stop_tokens=())
    steps = list(generate(model, PROMPT, [PromptLookup()], max_new_tokens=12, stop_tokens=()))
    assert found.tokens == [token for step in steps for token in step.tokens]
    assert [step.accepted for step in found.steps] == [step.accepted for step in steps]
    assert found.text == model.decode(found.tokens)
    assert not found.cancelled


def test_the_clock_covers_prefill_and_decoding(tiny, monkeypatch):
    readings = iter([10.0, 12.0, 20.0])
    monkeypatch.setattr(module, "clock", lambda: next(readings))
    found = run(tiny("llama"), PROMPT, max_new_tokens=5, stop_tokens=())
    assert (found.time_to_first_token, found.seconds) == (2.0, 10.0)
    assert found.tokens_per_second == 0.5  # four tokens in eight seconds after the first


def test_its_trace_holds_what_the_steps_say(tiny):
    found = run(tiny("llama"), PROMPT, [PromptLookup()], max_new_tokens=24, stop_tokens=())
    tree = trace.check(found.trace)
    assert tree.attrs["kind"] == "generate"
    assert tree["tokens/id"].values.tolist() == PROMPT
    assert tree["text/id"].values.tolist() == found.tokens
    assert tree["steps/tokens"].values.sum() == 24
    assert tree["steps/accepted"].values.tolist() == [step.accepted for step in found.steps]
    assert tree["layers/passes"].values.sum() == sum(len(step.layers) for step in found.steps)
    drafted = tree["text/accepted_draft"].values
    assert drafted.sum() == sum(step.accepted for step in found.steps) > 0
    for token, step in enumerate(tree["text/step"].values):
        place = token - sum(len(each.tokens) for each in found.steps[:step])
        assert drafted[token] == (place < found.steps[step].accepted)


def test_its_drafts_are_those_of_the_steps_and_all_have_a_text(tiny):
    found = run(tiny("llama"), PROMPT, [PromptLookup()], max_new_tokens=24, stop_tokens=())
    drafts = found.trace["drafts"].to_dataset()
    assert drafts["step"].values.tolist() == [step.index for step in found.steps for _ in step.nodes]
    assert drafts["token"].values.tolist() == [node[0] for step in found.steps for node in step.nodes]
    for step in found.steps:
        here = drafts.isel(node=drafts["step"].values == step.index)
        assert here.sizes["node"] == step.drafted and here["kept"].sum() >= step.accepted
    assert set(drafts["token"].values.tolist()) <= set(trace.vocabulary(found.trace))
    assert drafts.sizes["node"] > drafts["kept"].sum() > 0


@pytest.mark.parametrize("techniques", [[], [PromptLookup()]], ids=["nothing drafted", "drafted"])
@pytest.mark.parametrize("name", ["t.zarr", "t.nc"])
def test_a_trace_survives_the_disk(tiny, tmp_path, techniques, name):
    found = run(tiny("llama"), PROMPT, techniques, max_new_tokens=12, stop_tokens=())
    assert bool(found.trace["drafts"].sizes["node"]) == bool(techniques)
    trace.save(found.trace, tmp_path / name)
    assert trace.open(tmp_path / name).identical(found.trace)


def test_cancelled_before_the_first_step_it_is_empty_and_says_so(tiny):
    cancel = threading.Event()
    cancel.set()
    found = run(tiny("llama"), PROMPT, max_new_tokens=5, cancel=cancel)
    assert found.cancelled and found.tokens == []
    assert found.trace.attrs["partial"] == 1
    assert found.trace["text"].sizes["token"] == 0


def test_a_bad_prompt_is_refused(tiny):
    with pytest.raises(PromptError):
        run(tiny("llama"), [], max_new_tokens=5)


def test_the_hash_changes_with_everything_that_matters_and_with_nothing_else(tiny):
    base = recipe(tiny("llama"), PROMPT, [PromptLookup()], {"max_new_tokens": 5})["hash"]
    same = recipe(tiny("llama"), list(PROMPT), [PromptLookup(ngram=3)], {"max_new_tokens": 5, "cancel": object()})
    assert same["hash"] == base
    others = [
        recipe(tiny("gpt2"), PROMPT, [PromptLookup()], {"max_new_tokens": 5}),
        recipe(tiny("llama", seed=1), PROMPT, [PromptLookup()], {"max_new_tokens": 5}),
        recipe(tiny("llama", dtype=torch.bfloat16), PROMPT, [PromptLookup()], {"max_new_tokens": 5}),
        recipe(tiny("llama"), PROMPT[1:], [PromptLookup()], {"max_new_tokens": 5}),
        recipe(tiny("llama"), PROMPT, [PromptLookup(ngram=2)], {"max_new_tokens": 5}),
        recipe(tiny("llama"), PROMPT, [], {"max_new_tokens": 5}),
        recipe(tiny("llama"), PROMPT, [PromptLookup()], {"max_new_tokens": 6}),
        recipe(tiny("llama"), PROMPT, [PromptLookup()], {"max_new_tokens": 5, "seed": 1}),
        recipe(tiny("llama"), PROMPT, [PromptLookup()], {"max_new_tokens": 5, "temperature": 0.5}),
    ]
    assert len({base, *(other["hash"] for other in others)}) == 1 + len(others)


def test_the_arithmetic_is_in_the_trace_and_in_the_hash(tiny, monkeypatch):
    model = tiny("llama")
    found = run(model, PROMPT, max_new_tokens=2)
    assert found.trace.attrs["arithmetic"] == found.recipe["arithmetic"] == model.arithmetic
    monkeypatch.setattr("workbench_kernels.arithmetic.name", lambda dtype, device: "another")
    assert run(model, PROMPT, max_new_tokens=2).recipe["hash"] != found.recipe["hash"]
