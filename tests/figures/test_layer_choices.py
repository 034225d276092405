"""Which layers ran, as data: of every prompt, and of every token of one answer."""

import json

import pytest

from workbench import figures
from workbench.errors import TraceError
from workbench.figures import FIGURES
from workbench.models.tiny import tiny
from workbench.studies.compare import compare

PROMPTS = [[3, 4, 5, 6, 3, 4, 5], [7, 8, 9, 7, 8], [11, 12, 13]]


@pytest.fixture(scope="module")
def routed():
    runs = {"routed": "layer_router:weights=untrained", "exits": "confidence_exit:lens=logit,threshold=0.02,first=0.5,"
            "every=1,fill=hole", "all": []}  # fmt: skip
    return compare(tiny("llama"), PROMPTS, runs, max_new_tokens=10).tree


def tables(chart):
    spec = chart.to_dict()
    return [spec["datasets"][part["data"]["name"]] for part in spec["vconcat"]]


@pytest.mark.parametrize("run", ["routed", "exits"])
def test_it_says_what_the_trace_says(routed, run):
    above, below = tables(figures.layer_choices(routed, run=run, prompt=1))
    number = [each["name"] for each in json.loads(routed.attrs["runs"])].index(run)
    passes = routed["layers/passes"].isel(run=number)
    for row in above:
        of_prompt = passes.isel(prompt=row["prompt"], layer=row["layer"]).values[1:]
        assert row["passes"] == pytest.approx(of_prompt[of_prompt >= 0].mean(), rel=1e-4)
    assert len(above) == len(PROMPTS) * 4
    made = routed["text/step"].isel(run=number, prompt=1).values
    assert len(below) == 4 * (made >= 0).sum()
    for row in below:
        times = int(passes.isel(prompt=1, step=made[int(row["token"].split(" ")[0])], layer=row["layer"]))
        assert row["passes"] == times and row["said"] == ("skipped", "run", "run more than once")[min(times, 2)]
    assert len({row["passes"] for row in below}) > 1


def test_a_report_shows_it_where_there_is_something_to_see(routed):
    names = [each["name"] for each in json.loads(routed.attrs["runs"])]
    shows = [FIGURES["layer_choices"].shows(routed, run) for run in range(len(names))]
    assert len(names) >= 3 and dict(zip(names, shows)) == {name: name in ("routed", "exits") for name in names}


def test_the_last_tokens_and_what_was_left_out(routed, synthetic):
    _, below = tables(figures.layer_choices(routed, run="routed", last=3))
    assert [row["token"].split(" ")[0] for row in below[::4]] == ["7", "8", "9"]
    notes = figures.layer_choices(routed, run="routed", last=3).to_dict()["title"]["subtitle"]
    assert "last 3 of 10 tokens" in " ".join(notes)
    deep = synthetic.study(runs=8, prompts=3)
    assert len(tables(figures.layer_choices(deep, run=1))[1]) == 30 * 60


@pytest.mark.parametrize(("settings", "said"), [({"run": "none"}, "no run"), ({"prompt": 3}, "no prompt 3")])
def test_what_is_not_there_is_said(routed, settings, said):
    with pytest.raises(TraceError, match=said):
        figures.layer_choices(routed, **settings)


def test_a_prompt_without_an_answer_is_said(routed):
    empty = routed.copy(deep=True)
    empty["text/id"][:, 0] = -1
    with pytest.raises(TraceError, match="made no tokens"):
        figures.layer_choices(empty)
    assert tables(figures.layer_choices(empty, prompt=1)) == tables(figures.layer_choices(routed, prompt=1))
