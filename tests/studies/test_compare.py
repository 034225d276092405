"""Recipes side by side: whose turn it is, what is paired with what, and what a failure or a stop leaves behind."""

import json
import threading

import numpy as np
import pytest
import torch
from studies.made_up import MACHINE, PROMPTS, Biased, Failing, Lying

from workbench import generate, trace
from workbench.cost.roofline import step_seconds
from workbench.errors import IncompatibleTechniques, PromptError, SettingError
from workbench.studies import compare as module
from workbench.studies import run as run_module
from workbench.techniques import PromptLookup


@pytest.fixture
def turns(monkeypatch):
    """Every generation in order: (specification, first prompt token, tokens asked for)."""
    made = []
    original = module.run

    def record(model, prompt, techniques, **options):
        found = original(model, prompt, techniques, **options)
        made.append(("+".join(each.name for each in techniques), prompt[0], options["max_new_tokens"]))
        return found

    monkeypatch.setattr(module, "run", record)
    return made


RECIPES = {"lookup": [PromptLookup()], "bias": [Biased()]}


# Turns and clocks


def test_runs_take_turns_and_every_round_starts_with_another(compared, turns):
    compared(RECIPES, repeats=3, quality=False)
    whole = [turn for turn in turns if turn[2] == 10]
    circle = ["", "prompt_lookup", "biased"]
    expected = []
    for place, prompt in enumerate(PROMPTS):
        for repeat in range(3):
            start = (place + repeat) % 3
            expected += [(name, prompt[0], 10) for name in circle[start:] + circle[:start]]
    assert whole == expected


def test_everything_is_warmed_up_before_the_first_clock(compared, turns):
    compared(RECIPES, repeats=1, quality=False)
    assert [turn for turn in turns if turn[2] != 10] == [
        ("", 1, 8), ("prompt_lookup", 1, 8), ("biased", 1, 8), ("", 1, 1), ("", 3, 1)
    ]  # fmt: skip
    assert turns[3][2] == 1 and turns[4][2] == 10


def test_numbers_follow_from_the_clock(compared, monkeypatch):
    """A clock that gives each generation its own seconds: the prefill takes one, the whole takes what its turn says."""
    taken = {"baseline": [8.0, 4.0], "lookup": [2.0, 8.0]}
    state = {"now": 0.0, "reading": 0, "run": None}
    counts = {name: 0 for name in taken}
    original = module.run

    def timed(model, prompt, techniques, **options):
        name = "lookup" if techniques else "baseline"
        if options["max_new_tokens"] == 10:
            state.update(reading=0, seconds=taken[name][counts[name]])
            counts[name] += 1
        else:
            state.update(reading=0, seconds=99.0)
        return original(model, prompt, techniques, **options)

    def clock():
        reading = [0.0, 1.0, state["seconds"]][state["reading"]]
        state["reading"] += 1
        return reading

    monkeypatch.setattr(module, "run", timed)
    monkeypatch.setattr(run_module, "clock", clock)
    study = compared({"lookup": [PromptLookup()]}, prompts=PROMPTS[:1])
    timing = study.tree["timing"]
    assert timing["seconds"].values.tolist() == [[[8.0, 4.0]], [[2.0, 8.0]]]
    assert timing["tokens_per_second"].values[:, 0] == pytest.approx(np.array([[9 / 7, 9 / 3], [9 / 1, 9 / 7]]))
    assert timing["time_to_first_token"].values.tolist() == [[[1.0, 1.0]], [[1.0, 1.0]]]
    assert timing["speedup"].values[:, 0] == pytest.approx(np.array([[1.0, 1.0], [7.0, 3 / 7]]))
    lookup = study.summary[1]["speedup"]
    assert lookup.median == pytest.approx((7 + 3 / 7) / 2) and (lookup.n, lookup.bounded) == (1, False)


def test_a_speed_up_is_in_seconds_per_decoded_token(compared, monkeypatch):
    class Short(Failing):
        def start(self, run):
            return self

        def stop(self, generated):
            return len(generated) == 5

    readings = iter([0.0, 1.0, 10.0] * 20)
    monkeypatch.setattr(run_module, "clock", lambda: next(readings))
    study = compared({"short": [Short()]}, prompts=PROMPTS[:1], repeats=1, quality=False)
    assert study.tree["scores/new_tokens"].values[:, 0].tolist() == [10, 5]
    assert study.tree["timing/speedup"].values[1, 0, 0] == pytest.approx((9 / 9) / (9 / 4))


# What the tree holds


def test_the_tree_says_what_generate_says(compared, tiny):
    study = compared(RECIPES)
    trace.check(study.tree)
    for place, prompt in enumerate(PROMPTS):
        for run, techniques in enumerate(([], *RECIPES.values())):
            steps = list(generate(tiny("llama"), prompt, techniques, max_new_tokens=10, stop_tokens=()))
            scores = study.tree["scores"].isel(run=run, prompt=place)
            assert scores["flops"] == sum(step.flops for step in steps)
            assert scores["accepted"] == sum(step.accepted for step in steps)
            assert scores["forwards"] == sum(step.forwards for step in steps)
            written = [token for step in steps for token in step.tokens]
            assert study.tree["text/id"].values[run, place].tolist() == written
            flops, moved = (np.array([getattr(step, name) for step in steps]) for name in ("flops", "bytes"))
            modelled = study.tree["modelled/seconds"].values[run, place, 0]
            assert modelled == pytest.approx(step_seconds(flops, moved, MACHINE, "float32")[1:].sum())
    per_token = study.tree["modelled/seconds"].values[..., 0] / (study.tree["scores/new_tokens"].values - 1)
    assert study.tree["modelled/speedup"].values[..., 0] == pytest.approx(per_token[0] / per_token)
    assert [run["name"] for run in study.runs] == ["baseline", "lookup", "bias"]
    assert [run["exact_declared"] for run in study.runs] == [True, True, False]
    assert json.loads(study.tree.attrs["hardware"]) == ["made up"]


def test_an_exact_recipe_equals_the_baseline_and_another_is_measured(compared):
    scores = compared(RECIPES).tree["scores"]
    assert scores["equal_to_baseline"].values.tolist() == [[1, 1], [1, 1], [0, 0]]
    assert (scores["kl"].values[:2] == 0).all() and (scores["kl"].values[2] > 0.01).all()
    assert (scores["top1_agreement"].values[2] < 1).all()
    assert (scores["first_divergence"].values[2] >= 0).all()
    assert (scores["rouge_l"].values[2] < 1).all()
    assert (scores["flips"].values == 0).all()
    assert np.isnan(scores["flip_margin"].values[:2]).all() and (scores["flip_margin"].values[2] > 0).all()


def test_flips_of_an_exact_recipe_are_counted_in_half_precision_only(compared, tiny):
    for dtype, flips in ((torch.bfloat16, 1.0), (torch.float32, 0.0)):
        study = compared({"lying": [Lying()]}, model=tiny("llama", dtype=dtype))
        scores = study.tree["scores"].isel(run=1)
        assert (scores["equal_to_baseline"].values == 0).all()
        assert (scores["flips"].values == flips).all()
        assert (scores["flip_margin"].values >= 0).all()
    assert any("flipped in half precision" in line for line in flipped_lines(compared, tiny))


def flipped_lines(compared, tiny):
    return compared({"lying": [Lying()]}, model=tiny("llama", dtype=torch.bfloat16)).lines()


def test_the_task_s_own_score_is_there_where_there_is_a_reference(compared):
    prompts = [{"id": "q", "prompt": PROMPTS[0], "reference": "nowhere", "task": "question_answering"}, PROMPTS[1]]
    scores = compared({}, prompts=prompts, repeats=1).tree["scores/score"].values
    assert scores[0, 0] == 0.0 and np.isnan(scores[0, 1])


def test_sampled_runs_repeat_and_a_drafted_one_keeps_the_distribution_not_the_text(compared):
    first, second = (
        compared({"lookup": [PromptLookup()]}, temperature=0.9, top_p=0.95, seed=4).tree["text/id"].values
        for _ in range(2)
    )
    assert (first == second).all()


# Checked before anything runs


@pytest.mark.parametrize(
    ("recipes", "options", "error", "message"),
    [
        ({"two": [PromptLookup(), PromptLookup()]}, {}, IncompatibleTechniques, "draft"),
        ({"baseline": [PromptLookup()]}, {}, SettingError, "must be empty"),
        ({"x": "no_such_technique"}, {}, SettingError, "no_such_technique"),
        ({"x": "prompt_lookup:ngram=0"}, {}, SettingError, "ngram"),
        ({"x": [3]}, {}, SettingError, "no technique"),
        ({}, {"repeats": 0}, SettingError, "repeats"),
        ({}, {"max_new_tokens": 0}, PromptError, "max_new_tokens"),
        ({}, {"max_new_tokens": 250}, PromptError, "prompt prompt-1: .*positions"),
        ({}, {"temperature": -1.0}, SettingError, "temperature"),
        ({}, {"prefill_chunk": 0}, SettingError, "prefill_chunk"),
        ({}, {"hardware": ("abacus",)}, SettingError, "abacus"),
        ({"x": "draft_model:model=/99"}, {}, SettingError, "layers"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_runs(compared, turns, recipes, options, error, message):
    with pytest.raises(error, match=message):
        compared(recipes, **options)
    assert turns == []


# Failures and stops


def test_a_failing_recipe_is_marked_and_the_others_go_on(compared):
    study = compared({"fails": [Failing()], "breaks": [Failing(first=3, kind="index")], "lookup": [PromptLookup()]})
    runs = {run["name"]: run for run in study.runs}
    assert runs["fails"]["failed"] == "the test gave NaN" and runs["fails"]["failed_prompts"] == ["prompt-1"]
    assert runs["breaks"]["failed"] == "IndexError: list index out of range"
    assert runs["breaks"]["failed_prompts"] == ["prompt-2"]
    assert runs["lookup"]["failed"] is None and runs["baseline"]["failed"] is None
    made = ~np.isnan(study.tree["scores/new_tokens"].values)
    assert made.tolist() == [[True, True], [False, True], [True, False], [True, True]]
    assert study.tree["scores/equal_to_baseline"].values[1, 1] == 1.0
    assert study.to_dict()["failures"] == {
        "fails": "the test gave NaN", "breaks": "IndexError: list index out of range"
    }  # fmt: skip
    assert any("fails failed: the test gave NaN" in line for line in study.lines())


def test_a_recipe_that_fails_in_its_second_repeat_keeps_its_first(compared, monkeypatch):
    original, count = module.run, [0]

    def flaky(model, prompt, techniques, **options):
        if techniques and options["max_new_tokens"] == 10:
            count[0] += 1
            if count[0] == 2:
                raise MemoryError("all gone")
        return original(model, prompt, techniques, **options)

    monkeypatch.setattr(module, "run", flaky)
    study = compared({"lookup": [PromptLookup()]}, prompts=PROMPTS[:1])
    assert study.runs[1]["failed"] == "MemoryError: all gone"
    assert np.isnan(study.tree["timing/seconds"].values[1, 0]).tolist() == [False, True]
    assert study.tree["scores/new_tokens"].values[1, 0] == 10


def test_a_failed_baseline_leaves_the_rest_measured(compared, monkeypatch):
    original = module.run

    def broken(model, prompt, techniques, **options):
        if not techniques:
            raise MemoryError("all gone")
        return original(model, prompt, techniques, **options)

    monkeypatch.setattr(module, "run", broken)
    study = compared({"lookup": [PromptLookup()]})
    assert study.runs[0]["failed"] and not np.isnan(study.tree["timing/seconds"].values[1]).any()
    assert np.isnan(study.tree["timing/speedup"].values).all()
    assert study.to_dict()["runs"][1]["equal_to_baseline"] is None
    assert study.to_dict()["runs"][1]["tokens_per_second"]["median"] > 0


@pytest.mark.parametrize(("after", "generations"), [(1, 1), (2, 2), (5, 4), (8, 6)])
def test_cancelled_it_keeps_what_was_finished_and_says_so(compared, turns, after, generations):
    cancel, seen = threading.Event(), []

    def progress(done, total, message):
        seen.append((done, total))
        if done == after:
            cancel.set()

    study = compared({"lookup": [PromptLookup()]}, cancel=cancel, progress=progress)
    assert study.partial and study.measured and seen[-1] == (after, 12)
    assert len([turn for turn in turns if turn[2] == 10]) == generations
    assert (~np.isnan(study.tree["timing/seconds"].values)).sum() == generations
    assert "partial" in repr(study) and study.to_dict()["partial"] is True
    assert study.lines()[-1].startswith("partial")


def test_cancelled_in_the_middle_of_a_text_it_stops_within_a_token(compared):
    cancel, tokens = threading.Event(), []

    class Watch(Failing):
        def start(self, run):
            self_ = self

            class Policy:
                def stop(self, generated):
                    if run.max_new_tokens == 10:
                        tokens.append(len(generated))
                        if len(generated) == 4:
                            cancel.set()
                    return False

            assert self_ is not None
            return Policy()

    study = compared({"watch": [Watch()]}, cancel=cancel)
    assert tokens == [1, 2, 3, 4]
    assert study.partial and np.isnan(study.tree["timing/seconds"].values[1]).all()


def test_cancelled_at_once_there_is_still_a_study(compared, tmp_path):
    cancel = threading.Event()
    cancel.set()
    study = compared(RECIPES, cancel=cancel)
    assert study.partial and not study.measured and len(study.table()) == 3 and study.lines() and study._repr_html_()
    speed = study.to_dict()["runs"][0]["tokens_per_second"]
    assert speed == {"median": None, "low": None, "high": None, "level": None, "n": 0, "of": 2}
    study.save(tmp_path / "s.zarr")


def test_progress_counts_to_its_end(compared):
    seen = []
    compared(RECIPES, progress=lambda done, total, message: seen.append((done, total)))
    assert seen == [(done, 18) for done in range(1, 19)]


# Going on from before


def test_it_goes_on_from_what_was_finished(compared, turns, tmp_path):
    first = compared(RECIPES, folder=tmp_path, quality=True)
    turns.clear()
    again = compared(RECIPES, folder=tmp_path)
    assert turns == []
    assert again.tree["scores"].identical(first.tree["scores"])
    assert again.tree["timing"].identical(first.tree["timing"])
    assert len(list(tmp_path.iterdir())) == 6


def test_a_new_recipe_is_timed_beside_a_fresh_baseline(compared, turns, tmp_path):
    first = compared({"lookup": [PromptLookup()]}, folder=tmp_path)
    turns.clear()
    study = compared(RECIPES, folder=tmp_path)
    whole = [name for name, _, length in turns if length == 10]
    assert whole == ["", "biased", "biased", "", "biased", "", "", "biased"]
    assert study.tree["timing"].isel(run=slice(2)).identical(first.tree["timing"].isel(run=slice(2)))
    assert (study.tree["timing/speedup"].values[2] > 0).all()


def test_another_arithmetic_shares_nothing(compared, turns, tmp_path, monkeypatch):
    """What torch's sums and the compiled kernels' wrote is never mixed."""
    compared({}, folder=tmp_path, quality=False)
    turns.clear()
    monkeypatch.setattr("workbench_kernels.arithmetic.name", lambda dtype, device: "another")
    compared({}, folder=tmp_path, quality=False)
    assert turns and len(list(tmp_path.iterdir())) == 4


def test_other_settings_share_nothing(compared, turns, tmp_path):
    compared({}, folder=tmp_path, quality=False)
    for options in ({"seed": 1}, {"max_new_tokens": 9}, {"repeats": 3}, {"quality": True}):
        turns.clear()
        compared({}, **{"folder": tmp_path, "quality": False, **options})
        assert turns != [], options


def test_what_failed_or_was_cut_off_is_tried_again(compared, turns, tmp_path):
    compared({"fails": [Failing()]}, folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
    turns.clear()
    compared({"fails": [Failing()]}, folder=tmp_path)
    assert {first for _, first, _ in turns} == {1}


def test_a_study_that_was_cut_off_goes_on_where_it_stopped(compared, turns, tmp_path):
    cancel = threading.Event()

    def stop(done, total, message):
        if done == 7:
            cancel.set()

    compared({"lookup": [PromptLookup()]}, folder=tmp_path, cancel=cancel, progress=stop)
    turns.clear()
    study = compared({"lookup": [PromptLookup()]}, folder=tmp_path)
    assert {first for _, first, _ in turns} == {3} and not study.partial


def test_nothing_is_left_behind_on_the_model(compared, tiny):
    model = tiny("llama")
    before = {name: value.clone() for name, value in model.hf.state_dict().items()}
    compared({"fails": [Failing()], "skip": "unified_layer_skip"})
    assert all(torch.equal(value, before[name]) for name, value in model.hf.state_dict().items())
