"""Figures of drafts, as data: each against a plain restatement over the rows of the group ``drafts``."""

import json

import numpy as np
import pytest
import xarray as xr

from workbench import figures
from workbench.errors import TraceError
from workbench.figures import FIGURES
from workbench.figures._drafts import nodes
from workbench.figures._runs import labels
from workbench.figures.draft_tree import LEVELS, layout
from workbench.studies.run import run as run_recipe
from workbench.techniques import PromptLookup

OURS = ("acceptance_by_position", "accepted_speed", "time_split", "draft_calibration", "draft_tree")


def rows(chart):
    return [row for table in chart.to_dict()["datasets"].values() for row in table]


def drafted(tree):
    """Every drafted token as a plain dict, with what stands for its parent."""
    data = tree["drafts"].to_dataset()
    found = [{name: data[name].values[i].item() for name in data.data_vars} for i in range(data.sizes["node"])]
    by_step = {}
    for row in found:
        here = by_step.setdefault((row["run"], row["prompt"], row["step"]), [])
        row["reached"] = row["parent"] < 0 or bool(here[row["parent"]]["kept"])
        here.append(row)
    return found


def with_drafts(tree, **changed):
    """A copy of a study with other values in its drafts."""
    drafts = tree["drafts"].to_dataset().copy(deep=True)
    for name, values in changed.items():
        drafts[name].values[...] = values
    copy = tree.copy()
    copy["drafts"] = xr.DataTree(drafts)
    return copy


def test_a_token_is_reached_where_its_parent_was_kept(study):
    table, want = nodes(study), drafted(study)
    assert table["reached"].tolist() == [row["reached"] for row in want]
    assert 0 < table["reached"].sum() < len(table)
    assert nodes(study, 6)["run"].unique().tolist() == [6]


# Acceptance by position


@pytest.mark.parametrize("of", ["drafted", "reached"])
def test_shares_by_position_are_those_of_the_steps(study, of):
    found = {(row["task"], row["run"], row["position"]): row for row in rows(
        figures.acceptance_by_position(study, of=of))}  # fmt: skip
    tasks = [prompt["task"] for prompt in json.loads(study.attrs["prompts"])]
    kept = {}
    for row in drafted(study):
        if of == "drafted" or row["reached"]:
            key = row["run"], row["prompt"], row["step"], row["depth"]
            kept[key] = max(kept.get(key, 0), row["kept"])
    for name, run in (("prompt lookup", 1), ("draft model", 6)):
        for depth in (1, 2, 3):
            whole = [value for key, value in kept.items() if (key[0], key[3]) == (run, depth)]
            chat = [
                value for key, value in kept.items() if (key[0], key[3]) == (run, depth) and tasks[key[1]] == "chat"
            ]
            for task, values in (("all tasks", whole), ("chat", chat)):
                row = found[task, name, depth]
                assert row["share"] == pytest.approx(np.mean(values), abs=1e-4) and row["steps"] == len(values)
    assert {key[1] for key in found} == {labels(study, 28)[run] for run in (1, 5, 6)}


def test_positions_that_are_left_out_are_said(study):
    chart = figures.acceptance_by_position(study, positions=2)
    assert {row["position"] for row in rows(chart)} == {1, 2}
    assert "The first 2 of 4 positions are shown." in " ".join(chart.to_dict()["title"]["subtitle"])


def test_the_names_of_the_runs_stand_once_in_a_row_of_panels(study):
    spec = figures.acceptance_by_position(study).to_dict()
    axes = [panel["layer"][0]["encoding"]["y"]["axis"] for row in spec["vconcat"] for panel in row["hconcat"]]
    assert len(axes) == 3 and axes[0] is not None and axes[1:] == [None, None]


# Accepted per forward against speed-up


def accepted_runs(study):
    return {row["run"]: row for row in rows(figures.accepted_speed(study)) if "kept_low" in row}


def test_runs_are_placed_by_what_they_keep_and_what_they_gain(study):
    found = accepted_runs(study)
    assert set(found) == {labels(study, 26)[run] for run in (1, 5, 6)}, "only runs that draft"
    tokens = study["steps/tokens"].values[6, :, 1:]
    assert found["draft model"]["kept"] == pytest.approx(tokens[tokens >= 0].sum() / (tokens >= 0).sum())
    speed = np.median(np.median(study["timing/speedup"].values[6], 1))
    assert found["draft model"]["speed"] == pytest.approx(float(speed)) and found["draft model"]["pairs"] == "5 of 5"
    assert found["draft model"]["speed"] < 1 < found["draft model"]["kept"], "it keeps much and loses"


def test_lines_say_what_would_be_free_and_what_is_no_gain(study):
    lines = [row for row in rows(figures.accepted_speed(study)) if "line" in row]
    free = [row for row in lines if row["line"] != "no gain"]
    assert all(row["speed"] == pytest.approx(row["kept"]) for row in free) and len(free) == 2
    dashes = figures.accepted_speed(study).to_dict()["layer"][0]["encoding"]["strokeDash"]["scale"]
    assert set(dashes["domain"]) == {row["line"] for row in lines} and len(dashes["range"]) == 2
    assert all(row["speed"] == 1 for row in lines if row["line"] == "no gain")


def test_it_counts_the_pairs_in_which_keeping_more_is_slower(study):
    tree = study.copy()
    speed = study["timing/speedup"].copy(deep=True)
    speed[1], speed[5], speed[6] = 1.1, 1.2, 1.3  # the reverse of what they keep
    tree["timing/speedup"] = speed
    kept = {name: row["kept"] for name, row in accepted_runs(tree).items()}
    by_speed = [kept[labels(study, 26)[run]] for run in (1, 5, 6)]
    against = sum(by_speed[i] > by_speed[j] for i in range(3) for j in range(i + 1, 3))
    said = " ".join(figures.accepted_speed(tree).to_dict()["title"]["subtitle"])
    assert f"In {against} of 3 pairs" in said and against >= 2


def test_every_task_has_its_own_point(study):
    small = [row for row in rows(figures.accepted_speed(study)) if "task" in row and row["run"] == "prompt lookup"]
    speed = np.median(study["timing/speedup"].values[1], 1)
    want = [np.median(speed[0::2]), np.median(speed[1::2])]
    assert [row["speed"] for row in small] == pytest.approx(want)


# Time


def test_the_parts_of_the_time_add_up_to_the_decode_steps(study):
    table = [row for row in rows(figures.time_split(study)) if row["run"] == "prompt lookup"]
    parts = {row["part"]: row for row in table}
    steps = study["steps"].isel(run=1, step=slice(1, None))
    tokens = int(steps["tokens"].clip(min=0).sum())
    for part, name in (("draft", "draft_seconds"), ("verify", "verify_seconds")):
        assert parts[part]["ms"] == pytest.approx(1e3 * float(steps[name].sum()) / tokens)
    assert sum(row["ms"] for row in parts.values()) == pytest.approx(1e3 * float(steps["seconds"].sum()) / tokens)
    assert sum(row["share"] for row in parts.values()) == pytest.approx(1)
    assert parts["bookkeeping"]["share"] == pytest.approx(0.1)
    assert parts["verify"]["low"] == parts["draft"]["high"] and parts["bookkeeping"]["low"] == parts["verify"]["high"]


def test_as_shares_every_bar_is_one_long(study):
    chart = figures.time_split(study, show="share")
    assert [row["high"] for row in rows(chart) if row["part"] == "bookkeeping"] == pytest.approx([1] * 8)
    assert "(share)" in chart.to_dict()["layer"][0]["encoding"]["x"]["title"]


# Calibration


def test_bins_hold_the_tokens_that_could_be_kept(study):
    table = [row for row in rows(figures.draft_calibration(study)) if row.get("run") == "draft model"]
    could = [row for row in drafted(study) if row["run"] == 6 and row["reached"] and np.isfinite(row["confidence"])]
    assert sum(row["tokens"] for row in table) == len(could)
    for low, high in ((0.2, 0.4), (0.8, 1.0)):
        here = [row["kept"] for row in could if low <= row["confidence"] < high]
        (bin,) = [row for row in table if low <= row["chance"] < high]
        assert bin["share"] == pytest.approx(np.mean(here), abs=1e-4) and bin["tokens"] == len(here)
        assert bin["low"] <= bin["share"] + 1e-9 and bin["high"] >= bin["share"] - 1e-9 and bin["low"] < bin["high"]


def test_the_distance_to_the_diagonal_is_said_for_each_run(study):
    spec = figures.draft_calibration(study).to_dict()
    panels = [panel for row in spec["vconcat"] for panel in row["hconcat"]]
    assert [panel["title"]["text"] for panel in panels] == [labels(study, 28)[run] for run in (1, 5, 6)]
    could = [row for row in drafted(study) if row["run"] == 6 and row["reached"] and np.isfinite(row["confidence"])]
    off = np.mean([abs(row["confidence"] - row["kept"]) for row in could])  # every bin is all kept or all rejected
    assert panels[2]["title"]["subtitle"] == f"off by {off:.2f}"


def test_a_chance_of_one_is_in_the_last_bin(study):
    tree = with_drafts(study, confidence=1.0, kept=1)
    table = [row for row in rows(figures.draft_calibration(tree)) if "tokens" in row]
    assert [(row["chance"], row["share"]) for row in table] == [(1.0, 1.0)] * 3


def test_without_a_drafter_that_has_a_view_there_is_no_calibration(study):
    blind = with_drafts(study, confidence=np.nan)
    assert not FIGURES["draft_calibration"].applies(blind) and FIGURES["draft_tree"].applies(blind)
    with pytest.raises(TraceError, match="how sure"):
        figures.draft_calibration(blind)
    assert figures.draft_tree(blind, run=1).to_dict()


# The tree of one step


@pytest.mark.parametrize(
    ("parents", "heights"),
    [
        ([-1, 0, 1], [0, 0, 0]),
        ([-1, -1, -1], [0, 1, 2]),
        ([-1, -1, 0, 0, 1], [0.5, 2, 0, 1, 2]),
        ([-1, -1, 1, 0, 3], [0, 1, 1, 0, 0]),
        ([], []),
    ],
)
def test_leaves_have_rows_of_their_own_and_parents_stand_in_their_middle(parents, heights):
    assert layout(parents) == heights


def test_a_deep_chain_is_laid_out_without_recursion():
    assert layout(list(range(-1, 4999))) == [0.0] * 5000


def test_the_tree_of_a_step_is_what_was_drafted(study):
    points = rows(figures.draft_tree(study, run=1, prompt=2))
    words = {int(number): text for number, text in json.loads(study.attrs["vocabulary"]).items()}
    for step in {row["step"] for row in drafted(study) if (row["run"], row["prompt"]) == (1, 2)}:
        want = [row for row in drafted(study) if (row["run"], row["prompt"], row["step"]) == (1, 2, step)]
        here = [row for row in points if row["step"] == step]
        assert sorted(row["x"] for row in here if row["x"] > 0 and row["kind"] != "the model's own") == sorted(
            row["depth"] for row in want
        )
        kept = [row for row in here if row["kind"] == "accepted" and row["x"] > 0]
        assert len(kept) == sum(row["kept"] for row in want)
        assert all(row["x"] - row["from_x"] == 1 for row in here if row["x"] > 0)
        (own,) = [row for row in here if row["kind"] == "the model's own"]
        assert own["x"] == len(kept) + 1
        text = study["text"].isel(run=1, prompt=2)
        last = text["id"].values[text["step"].values == step][-1]
        assert own["token"] == words[int(last)].replace(" ", "␣") or not words[int(last)].strip().isprintable()
        places = {(row["x"], row["y"]) for row in here}
        assert len(places) == len(here), "no two points lie on each other"
        assert {(row["from_x"], row["from_y"]) for row in here} <= places, "every line begins at a point"


def test_the_step_that_kept_most_is_shown_first_and_all_can_be_chosen(study):
    spec = figures.draft_tree(study, run=1, prompt=0).to_dict()
    (choice,) = [each for each in spec["params"] if each["name"] == "draft_step"]
    steps = study["steps"].isel(run=1, prompt=0)
    assert choice["bind"]["options"] == np.flatnonzero(steps["drafted"].values > 0).tolist()
    assert steps["accepted"].values[choice["value"]] == steps["accepted"].values.max()


def test_control_characters_of_drafted_tokens_are_spelled_out(study):
    shown = {row["token"] for row in rows(figures.draft_tree(study, run=1))}
    assert {"\\u202e", "⏎", "∅"} & shown and not any("\u202e" in word or "\n" in word for word in shown)


def test_a_deep_draft_is_cut_and_it_is_said(study):
    count = study["drafts"].sizes["node"]
    one = {"run": 1, "prompt": 0, "step": 1, "parent": np.arange(-1, count - 1), "depth": np.arange(1, count + 1)}
    chart = figures.draft_tree(with_drafts(study, kept=1, **one), run=1)
    assert max(row["x"] for row in rows(chart)) == LEVELS, "and the model's own token, further on, is not drawn"
    assert f"Positions beyond {LEVELS} are not drawn." in " ".join(chart.to_dict()["title"]["subtitle"])


def test_a_run_or_prompt_without_drafts_is_refused(study):
    with pytest.raises(TraceError, match="'baseline' drafted nothing"):
        figures.draft_tree(study, run=0)
    with pytest.raises(TraceError, match="drafted nothing for prompt 99"):
        figures.draft_tree(study, run=1, prompt=99)


# All of them


@pytest.mark.parametrize("name", OURS)
def test_a_trace_of_before_there_were_drafts_is_drawn_without_them(study, name):
    old = study.to_dict()
    old.pop("/drafts")
    old["/steps"] = old["/steps"].drop_vars(["verify_seconds", "forwards"])
    old = xr.DataTree.from_dict(old)
    if name == "accepted_speed":  # needs the steps' tokens alone
        assert FIGURES[name].applies(old)
        return
    assert not FIGURES[name].applies(old)
    with pytest.raises(TraceError, match=f"{name} needs"):
        FIGURES[name].draw(old)


@pytest.mark.parametrize("name", [name for name in OURS if name != "accepted_speed"])
def test_one_run_on_one_prompt_is_drawn_as_well(tiny, name):
    found = run_recipe(tiny("llama"), [3, 4, 5, 6, 3, 4, 5], [PromptLookup()], max_new_tokens=16, stop_tokens=())
    figure = FIGURES[name]
    views = bool(np.isfinite(found.trace["drafts/confidence"]).any())
    assert figure.applies(found.trace) == (views or name != "draft_calibration")
    if figure.applies(found.trace):
        assert rows(figure.draw(found.trace))
