"""What was met against runs counted by hand."""

import json
import threading

import numpy as np
import pytest

import workbench as wb
from workbench import figures, trace
from workbench.errors import SettingError
from workbench.techniques import BudgetedExit, ConfidenceExit

PROMPTS = [list(range(3, 12)), list(range(20, 34))]
SMALL = {"lens": "untrained", "first": 0.2, "every": 1, "vocabulary": 0, "texts": 2, "answer": 8}
GIVEN = [BudgetedExit(average=0.8, **SMALL), BudgetedExit(average=0.95, memory=0.8, **SMALL), BudgetedExit.neutral()]


@pytest.fixture(scope="module")
def met(tiny):
    return trace.check(wb.budget_met(tiny("llama"), GIVEN, PROMPTS, max_new_tokens=12))


def test_what_is_met_is_what_the_steps_count(tiny, met):
    model, found = tiny("llama"), met["budget"]
    whole = [list(wb.generate(model, prompt, max_new_tokens=12)) for prompt in PROMPTS]
    plain = [step.flops for steps in whole for step in steps[1:]]
    for place, technique in enumerate(GIVEN):
        runs = [list(wb.generate(model, prompt, [technique], max_new_tokens=12)) for prompt in PROMPTS]
        took = [step.flops for steps in runs for step in steps[1:]]
        assert float(found.average_met[place]) == pytest.approx(np.mean(took) / np.mean(plain))
        assert float(found.peak_met[place]) == pytest.approx(max(took) / max(plain))
        assert float(found.average_asked[place]) == technique.average
        assert float(found.average_promised[place]) == technique.plan(model).promised.average
    assert float(found.memory_met[1]) == float(found.memory_promised[1]) < 0.8
    last = {name: float(found[name][2]) for name in found.data_vars}
    assert last["agreement"] == 1 and last["layers"] == 4
    assert [last[f"{kind}_met"] for kind in ("average", "peak", "memory")] == [1, 1, 1]
    assert 0 <= float(found.agreement[0]) < 1


def test_its_figure_has_a_point_for_each_budget(met):
    spec = figures.budget(met).to_dict()
    (points,) = (rows for rows in spec["datasets"].values() if "kind" in rows[0])
    names = json.loads(met.attrs["budgets"])
    assert len(points) == 9 and [row["technique"] for row in points[:3]] == names and "average=0.8" in names[0]
    for kind, title in (("average", "average FLOPs"), ("peak", "peak FLOPs"), ("memory", "memory")):
        found = [row for row in points if row["kind"] == title]
        for what in ("asked", "promised", "met"):
            want = met["budget"][f"{kind}_{what}"].values.tolist()
            assert [row[what] for row in found] == pytest.approx(want, rel=1e-4)


def test_what_has_no_budget_is_refused(tiny):
    with pytest.raises(SettingError, match="ConfidenceExit has no budgets"):
        wb.budget_met(tiny("llama"), [ConfidenceExit()], PROMPTS)
    with pytest.raises(SettingError, match="give a technique, a prompt"):
        wb.budget_met(tiny("llama"), GIVEN, [])


def test_it_can_be_cancelled(tiny):
    cancel = threading.Event()
    cancel.set()
    assert wb.budget_met(tiny("llama"), GIVEN[0], PROMPTS, cancel=cancel) is None
