"""A run that stops at once on most prompts: the few that are left give it no interval, and no place on the front."""

import json

import numpy as np
import pytest
from studies.made_up import MACHINE, Stopping

from workbench import figures
from workbench.techniques import PromptLookup

TASKS = ["chat", "chat", "chat", "code", "code", "code"]
PROMPTS = [
    {"id": f"p{place}", "prompt": [first, 5, 6, 7, 5, 6, 7, 5, 6], "task": task}
    for place, (first, task) in enumerate(zip([1, 4, 8, 9, 10, 3], TASKS))
]


@pytest.fixture(scope="module")
def stopped(tiny):
    """A study of six prompts whose second run stops on five of them, and is by far the fastest on the sixth."""
    from workbench.studies.compare import compare
    from workbench.studies.study import Study

    recipes = {"stops": [Stopping()], "lookup": [PromptLookup()]}
    study = compare(tiny("llama"), PROMPTS, recipes, max_new_tokens=10, stop_tokens=(), hardware=(MACHINE,), repeats=2)
    tree = study.tree.copy(deep=True)
    speed, rate = tree["timing/speedup"].values, tree["timing/tokens_per_second"].values
    speed[1, 5], rate[1, 5] = 9.0, 900.0
    speed[2], rate[:1] = np.linspace(0.9, 1.3, 12).reshape(6, 2), [100.0, 150.0]
    return Study(tree)


def test_it_says_on_how_many_prompts_and_tokens_a_speed_rests(stopped):
    stops, lookup = stopped.summary[1:]
    assert (stops["speedup"].n, stops["speedup"].of) == (1, 6) and stops["speedup"].median == 9.0
    assert not stops["speedup"].bounded and not stops["tokens_per_second"].bounded
    assert (stops["stopped_early"], stops["new_tokens"]) == (5, 5 + 10)
    assert lookup["speedup"].bounded and lookup["speedup"].level == 1 - 2 / 2**6
    assert (lookup["stopped_early"], lookup["new_tokens"]) == (0, 60)
    row = stopped.table(text=True).loc["stops"]
    assert row["measured on [prompts]"] == "1 of 6" and row["new tokens"] == "15, stopped early on 5"
    assert row["measured speed-up"] == "9.00"
    numbers = stopped.table().loc["stops"]
    assert (numbers["measured on [prompts]"], numbers["of prompts"], numbers["stopped early [prompts]"]) == (1, 6, 5)
    assert np.isnan(numbers["measured speed-up, low"]) and np.isnan(numbers["level of the interval"])
    assert stopped.table().loc["lookup", "level of the interval"] == 0.96875


def test_the_json_says_so_too(stopped):
    stops = json.loads(stopped.to_json())["runs"][1]
    assert stops["speedup"] == {"median": 9.0, "low": None, "high": None, "level": None, "n": 1, "of": 6}
    assert (stops["prompts"], stops["stopped_early"], stops["new_tokens"]) == (6, 5, 15)


def test_the_terminal_says_so_too(stopped):
    lines = stopped.lines()
    row = next(line for line in lines if line.startswith("stops"))
    assert "15*" in row and "1/6" in row and "[" not in row
    assert "[0.9" in next(line for line in lines if line.startswith("lookup"))
    assert max(map(len, lines)) <= 120


@pytest.mark.parametrize("quality", ["kl", "top1_agreement", "rouge_l"])
def test_it_is_not_on_the_front_although_nobody_is_faster(stopped, quality):
    assert "stops" not in stopped.pareto(quality) and stopped.pareto(quality)
    assert "stops" not in stopped.pareto("kl", "flops"), "its few operations are of fewer tokens"


def test_the_figure_leaves_it_hollow(stopped):
    tables = figures.quality_speed(stopped).to_dict()["datasets"].values()
    points = {row["run"]: row for table in tables for row in table if "front" in row}
    assert points["stops (n 1)"]["speed"] == 9.0 and points["stops (n 1)"]["speed_low"] is None
    assert not points["stops (n 1)"]["front"] and not points["stops (n 1)"]["comparable"]
    assert points["lookup"]["comparable"]


def test_remarks_tell_the_reader(stopped):
    said = " ".join(stopped.remarks)
    assert "Stopped early" in said and "stops on 5 of 6 prompts (15 tokens in all, a speed on 1)" in said
    assert "Not considered for the Pareto front" in said and "at a level of 96.9 % (6 prompts)" in said
    assert "repeats of the baseline on one prompt differ by 50 %" in said and "more than the effect of lookup" in said
    assert "an interval that leaves out 1" in said


def test_the_report_holds_them(stopped, tmp_path):
    text = stopped.save_html(tmp_path / "r.html").read_text("utf-8")
    assert "stops on 5 of 6 prompts" in text and "15, stopped early on 5" in text
    assert "1 of 6" in text and "measured speed-up, by task" in text


def test_measured_and_modelled_far_apart_are_a_warning(stopped):
    from workbench.studies.remarks import remarks
    from workbench.studies.study import Study

    tree = stopped.tree.copy(deep=True)
    tree.attrs["hardware"] = json.dumps(["this CPU"])
    tree["modelled/speedup"].values[:] = 1.0
    tree["timing/speedup"].values[2] = 0.5
    said = [line for line in remarks(tree, Study(tree).summary) if "modelled" in line]
    assert len(said) == 1 and "lookup (0.50 measured, 1.00 modelled)" in said[0]
    tree["modelled/speedup"].values[2] = 0.6
    assert not [line for line in remarks(tree, Study(tree).summary) if "lookup (" in line]


# By task and category


def test_a_table_by_task_has_a_row_for_every_group_and_run(stopped):
    table = stopped.table(by="task")
    assert list(table.index) == [(task, run) for task in ("chat", "code") for run in ("baseline", "stops", "lookup")]
    assert table.loc[("chat", "stops"), "measured on [prompts]"] == 0
    assert table.loc[("code", "stops"), "measured on [prompts]"] == 1
    assert table.loc[("code", "stops"), "of prompts"] == 3
    assert table["new tokens"].groupby("run").sum().to_dict() == {"baseline": 60, "stops": 15, "lookup": 60}
    chat = np.median(stopped.tree["timing/speedup"].values[2, :3], 1)
    assert table.loc[("chat", "lookup"), "measured speed-up"] == np.median(chat)
    assert list(stopped.table(text=True, by="task").columns) == list(stopped.table(text=True).columns)


def test_the_json_is_split(stopped):
    content = stopped.to_dict()
    assert list(content["by_task"]) == ["chat", "code"] and content["by_category"] == {}
    assert [run["speedup"]["n"] for run in content["by_task"]["chat"]] == [3, 0, 3]
    assert list(content["by_task"]["code"][0]) == list(content["runs"][0])


def test_the_terminal_splits_the_speed_up(stopped):
    lines = stopped.lines(by="task")
    start = lines.index("measured speed-up, by task (prompts)")
    assert lines[start + 1].split() == ["run", "chat", "(3)", "code", "(3)"]
    assert lines[start + 3].split() == ["stops", "9.00", "n", "1"]
    assert "mean accepted tokens, by task (prompts)" in lines
    assert lines[: start - 1] == stopped.lines()
    assert stopped.lines(by="category") == stopped.lines()


def test_many_groups_go_on_below(compared):
    prompts = [{"prompt": [3, 4, 5 + place], "category": f"a long category {place}"} for place in range(9)]
    study = compared({"n" * 50: [PromptLookup()]}, prompts=prompts, repeats=1, quality=False)
    assert [prompt["category"] for prompt in study.prompts] == [f"a long category {place}" for place in range(9)]
    assert list(study.to_dict()["by_category"]) == [f"a long category {place}" for place in range(9)]
    lines = study.lines(by="category")
    assert max(map(len, lines)) <= 120 and sum(line.startswith("run") for line in lines) >= 5


def test_by_something_else_is_refused(stopped):
    from workbench.errors import SettingError

    with pytest.raises(SettingError, match="by='colour' is none of task, category"):
        stopped.table(by="colour")
    assert len(stopped.table(by="category")) == 0
