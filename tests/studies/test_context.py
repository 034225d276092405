"""A study says whether caches were compressed before the question, and what it measures follows from it."""

import json

import pandas as pd
import pytest
from helpers import random_tokens

from workbench import trace
from workbench.errors import PromptError
from workbench.figures import report
from workbench.studies import compare as module
from workbench.studies.plan import BASELINE
from workbench.studies.run import run
from workbench.studies.study import Study
from workbench.techniques import LogitsProcessors, SnapKV

PROMPTS = [random_tokens(24) * 2, random_tokens(20, seed=3) * 2]
EVICT = {"evict": [SnapKV(keep=0.3, window=4)]}
FIRST, SEEN = "compressed before the question", "with the question seen"


@pytest.fixture
def both(compared):
    """One study for each way of asking."""
    return [compared(EVICT, PROMPTS, context_tokens=context, repeats=1) for context in (30, None)]


def test_every_table_report_and_json_says_which_it_was(both, tmp_path):
    for study, said, other in zip(both, (FIRST, SEEN), (SEEN, FIRST)):
        assert study.question == said and study.tree.attrs["question"] == said
        assert set(study.table()["cache"]) == {said} == set(study.table(text=True)["cache"])
        assert f"cache: {said}" in study.lines()
        written = json.loads(study.to_json())
        assert written["question"] == said and {each["question"] for each in written["prompts"]} == {said}
        page = study.save_html(tmp_path / "report.html").read_text("utf-8")
        assert f"cache: {said}" in page and f'<td class="text">{said}</td>' in page and other not in page
        study.save(tmp_path / f"{said}.zarr")
        assert Study.open(tmp_path / f"{said}.zarr").question == said
    assert both[0].prompts[0]["context_tokens"] == 30 and both[1].prompts[0]["context_tokens"] is None
    assert both[0].tree.attrs["recipe"] != both[1].tree.attrs["recipe"]


def test_a_split_table_says_it_of_every_group(both):
    tree = both[0].tree.copy()
    first, second = both[0].prompts
    tree.attrs["prompts"] = json.dumps([{**first, "task": "a"}, {**second, "task": "b", "context_tokens": None}])
    study = Study(tree)
    assert study.table(by="task")["cache"].groupby("task").unique().map(list).to_dict() == {"a": [FIRST], "b": [SEEN]}
    assert study.question == f"{FIRST} in 1 of 2 prompts, {SEEN} in the others"
    assert {run["question"] for run in study.to_dict()["by_task"]["b"]} == {SEEN}


def test_the_baseline_is_the_same_and_the_eviction_is_not(both):
    first, seen = (study.tree["text/id"].sel(run=0).values.tolist() for study in both)
    assert first == seen
    kl = [study.summary[1]["kl"] for study in both]
    assert kl[0] != kl[1] and kl[0] > 0
    first, seen = (study.tree["text/id"].sel(run=1, token=0).values.tolist() for study in both)
    assert seen == both[1].tree["text/id"].sel(run=0, token=0).values.tolist()


def test_a_kept_result_of_the_one_is_none_of_the_other(compared, tmp_path, monkeypatch):
    ran = []
    original = module.run
    monkeypatch.setattr(module, "run", lambda *a, **o: ran.append(o["context_tokens"]) or original(*a, **o))
    for context in (30, 30, None, 31):
        compared(EVICT, PROMPTS[:1], context_tokens=context, repeats=1, quality=False, folder=tmp_path)
    assert list(dict.fromkeys(ran)) == [30, None, 31]


def test_a_run_and_its_trace_say_it_too(tiny, tmp_path):
    found = [run(tiny("llama"), PROMPTS[0], max_new_tokens=4, stop_tokens=(), context_tokens=c) for c in (30, None)]
    assert [each.trace.attrs["question"] for each in found] == [FIRST, SEEN]
    assert [each.trace.attrs["context_tokens"] for each in found] == [30, 0]
    assert found[0].recipe["hash"] != found[1].recipe["hash"]
    trace.save(found[0].trace, tmp_path / "run.nc")
    assert trace.open(tmp_path / "run.nc").attrs["question"] == FIRST
    assert f"cache: {FIRST}" in report(found[0].trace, tmp_path / "run.html").read_text("utf-8")


def test_a_bad_context_is_refused_before_anything_runs(compared):
    with pytest.raises(PromptError, match="prompt prompt-2: context_tokens"):
        compared(EVICT, PROMPTS, context_tokens=45)


@pytest.mark.parametrize(
    ("options", "message"), [({"min_new_tokens": 11}, "min_new_tokens"), ({"stop_text": "a"}, "no tokenizer")]
)
def test_bad_options_are_refused_before_anything_runs(compared, options, message):
    with pytest.raises(PromptError, match=message):
        compared({}, PROMPTS, **options)


def test_min_new_tokens_reaches_every_run(compared):
    stops = compared({}, PROMPTS, quality=False, repeats=1).tree["text/id"].sel(run=0).values[:, 2].tolist()
    short = compared({}, PROMPTS, quality=False, repeats=1, stop_tokens=stops)
    long = compared({}, PROMPTS, quality=False, repeats=1, stop_tokens=stops, min_new_tokens=10)
    assert max(short.tree["scores/new_tokens"].values.flat) <= 3
    assert set(long.tree["scores/new_tokens"].values.flat) == {10.0}


def test_an_infinite_divergence_is_shown_and_not_hidden(compared):
    """What may not be said twice has no probability, and the baseline says it."""
    study = compared({"once": [LogitsProcessors(no_repeat_ngram=1)]}, PROMPTS[:1], repeats=1)
    assert study.summary[1]["kl"] == float("inf") and isinstance(study.table(), pd.DataFrame)
    assert json.loads(study.to_json())["runs"][1]["kl"] is None
    assert study.runs[0]["name"] == BASELINE and any("inf" in line for line in study.lines())


def test_a_run_from_a_state_is_its_own_recipe(tiny):
    from workbench import generate

    model, states = tiny("llama"), []
    for keep in (0.3, 0.9):
        stream = generate(model, PROMPTS[0], [SnapKV(keep=keep, window=4)], max_new_tokens=4, stop_tokens=())
        list(stream)
        states.append(stream.state)
    found = [run(model, [5, 6], max_new_tokens=4, stop_tokens=(), past=state) for state in states]
    assert found[0].prompt == [*states[0].tokens, 5, 6] and len(found[0].tokens) == 4
    assert found[0].trace.attrs["question"] == FIRST
    assert len({each.recipe["hash"] for each in found}) == 2


def test_what_is_only_reported_is_no_part_of_the_recipe(tiny):
    one, other = (
        run(tiny("llama"), [5, 6], max_new_tokens=2, **more) for more in ({}, {"logprobs": 2, "logits": True})
    )
    assert one.recipe["hash"] == other.recipe["hash"] and other.steps[0].logits is not None
    assert one.tokens == other.tokens
