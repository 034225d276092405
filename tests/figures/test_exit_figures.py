"""Figures of lenses and exits, as data, from what the probes write of a tiny model."""

import json

import numpy as np
import pytest

from workbench import figures
from workbench.errors import TraceError
from workbench.figures import FIGURES
from workbench.figures._exits import exit_layers
from workbench.models.tiny import tiny
from workbench.probes import ExitOracle, LogitLens, TunedLens
from workbench.studies.compare import compare
from workbench.studies.observe import observe


@pytest.fixture(scope="module")
def read():
    probes = [TunedLens(lens="untrained"), LogitLens(), ExitOracle(lens="untrained", threshold=0.2)]
    return observe(tiny("llama", layers=6), [3 + place % 90 for place in range(30)], probes)


def rows(chart):
    return list(chart.to_dict()["datasets"].values())


def test_the_table_of_the_tuned_lens_is_its_own(read):
    (table,) = rows(figures.tuned_lens(read, last=5))
    data = read["probes/tuned_lens"]
    for row in table:
        at = data.sel(layer=row["layer"], token=int(row["token"].split(" ")[0]))
        assert row["value"] == pytest.approx(float(at["top_probability"][0]), rel=1e-4)
    assert figures.tuned_lens(read).to_dict()["title"]["text"].startswith("Tuned lens of")
    assert rows(figures.logit_lens(read, last=5)) != [table]
    with pytest.raises(TraceError, match="none of probability"):
        figures.tuned_lens(read, colour="size")


def test_both_lenses_stand_beside_each_other_where_both_were_read(read):
    (table,) = rows(figures.lens_distance(read))
    for name, probe in (("tuned lens", "tuned_lens"), ("logit lens", "logit_lens")):
        data = read[f"probes/{probe}"]
        mine = [row for row in table if row["lens"] == name]
        assert [row["layer"] for row in mine] == list(range(-1, 6))
        np.testing.assert_allclose([row["kl_to_last"] for row in mine], data.kl_to_last.mean("token"), rtol=1e-4)
        np.testing.assert_allclose([row["agrees"] for row in mine], (data.final_rank == 0).mean("token"), rtol=1e-4)
    alone = observe(tiny("llama"), [3, 4, 5], [TunedLens(lens="untrained")])
    assert {row["lens"] for row in rows(figures.lens_distance(alone))[0]} == {"tuned lens"}


def test_the_oracle_shows_every_criterion_and_who_would_be_wrong(read):
    chart = figures.exit_oracle(read, last=12)
    shares, tokens = sorted(rows(chart), key=len)
    data = read["probes/exit_oracle"]
    criteria = json.loads(data.attrs["criteria"])
    assert len(shares) == len(criteria) == 7 and len(tokens) == 7 * 12
    np.testing.assert_allclose([row["saved"] for row in shares], data.layers_saved, rtol=1e-4)
    np.testing.assert_allclose([row["right"] for row in shares], data.right_share, rtol=1e-4)
    named = [row["criterion"] for row in shares]
    for row in tokens:
        at = data.sel(token=int(row["token"].split(" ")[0]), criterion=named.index(row["criterion"]))
        assert row["layer"] == int(at["exit_layer"]) and row["right"] == bool(at["right"])
    assert "the last 12 of 30 tokens" in " ".join(chart.to_dict()["title"]["subtitle"])
    assert any(not row["right"] for row in tokens) and all(
        row["right"] for row in tokens if row["criterion"] == named[0]
    )


# One run, step by step


@pytest.fixture(scope="module")
def ran():
    techniques = {
        "exits": "joint_exit:weights=untrained",
        "drafts": "self_speculative:exit_layer=0.5,threshold=0,lens=logit",
        "skips": "unified_layer_skip:speedup=1.5",
    }
    prompts = [[3, 4, 5, 6, 3, 4, 5], [7, 8, 9, 7, 8, 11]]
    return compare(tiny("llama", layers=6), prompts, techniques, max_new_tokens=14, stop_tokens=(), hardware=()).tree


def shows(tree):
    return [FIGURES["exit_timeline"].shows(tree, run) for run in range(tree["steps"].sizes["run"])]


def test_a_step_left_after_the_last_of_the_layers_that_ran_most(ran):
    passes, found = ran["layers/passes"].transpose("run", "prompt", "step", "layer").values, exit_layers(ran)
    for place in np.ndindex(found.shape):
        counts = passes[place].tolist()
        most = max(counts)
        assert found[place] == (max(at for at, count in enumerate(counts) if count == most) if most > 0 else -1)
    assert shows(ran) == [False, True, True, False], "a layer skipped in the middle is no exit"
    drafted = ran["steps/drafted"].transpose("run", "prompt", "step").values[2] > 0
    assert set(found[2][drafted].tolist()) == {2}


@pytest.mark.parametrize(("run", "drafts"), [("exits", False), ("drafts", True)])
def test_every_step_stands_with_its_exit_its_tokens_and_its_time(ran, run, drafts):
    spec = figures.exit_timeline(ran, run=run, prompt=1).to_dict()
    (table,) = spec["datasets"].values()
    number = [item["name"] for item in json.loads(ran.attrs["runs"])].index(run)
    at = ran["steps"].isel(run=number, prompt=1)
    assert [row["step"] for row in table] == [step for step in range(1, at.sizes["step"]) if at["tokens"][step] > 0]
    for row in table:
        step = row["step"]
        assert row["exit"] == exit_layers(ran)[number, 1, step]
        assert [row[name] for name in ("tokens", "drafted", "accepted")] == [
            int(at[name][step]) for name in ("tokens", "drafted", "accepted")
        ]
        assert row["ms"] * row["tokens"] == pytest.approx(1e3 * float(at["seconds"][step]), rel=1e-3)
        assert row["step_ms"] == pytest.approx(1e3 * float(at["seconds"][step]), rel=1e-3)
    assert len(spec["vconcat"]) == 3 + drafts and len(spec["vconcat"][-1]["hconcat"]) == 2 + drafts


def test_one_selection_lives_in_the_panels_and_all_of_them_ask_it(ran):
    spec = figures.exit_timeline(ran, run="drafts").to_dict()
    brush, here = spec["params"]
    named = [panel["layer"][0]["name"] for panel in spec["vconcat"][:-1]]
    assert brush["views"] == named[:1] and here["views"] == named
    for panel in spec["vconcat"][:-1]:
        assert panel["layer"][0]["encoding"]["opacity"]["condition"]["param"] == brush["name"]
        assert panel["layer"][-1]["encoding"]["opacity"]["condition"]["param"] == here["name"]
    for panel in spec["vconcat"][-1]["hconcat"]:
        assert panel["transform"][0] == {"filter": {"param": brush["name"]}}


def test_what_did_not_leave_has_no_timeline(ran):
    plain = ran.isel(run=[0, 3])
    assert not FIGURES["exit_timeline"].applies(plain)
    with pytest.raises(TraceError, match="no prompt 9"):
        figures.exit_timeline(ran, run="exits", prompt=9)
    few = figures.exit_timeline(ran, run="exits", first=3).to_dict()
    assert "first 3 of 13 decode steps" in " ".join(few["title"]["subtitle"])


def test_a_frontier_shows_both_what_is_left_of_the_full_models_answers_and_of_the_references(synthetic):
    tree = synthetic.frontier()
    spec = figures.exit_frontier(tree, layers=0.3).to_dict()
    points = next(table for table in spec["datasets"].values() if "setting" in table[0])
    assert len(points) == 8 and {row["kind"] for row in points[4:]} == {"the reference, of the full model's"}
    data = tree["exit_frontier"]
    assert [row["left"] for row in points[:4]] == pytest.approx(data.rouge_l.values.tolist(), rel=1e-4)
    assert [row["left"] for row in points[4:]] == pytest.approx((1 - data.reference_lost.values).tolist(), rel=1e-4)
    assert [row["left_low"] for row in points[4:]] == pytest.approx((1 - data.reference_lost_high.values).tolist())
    assert "30% of the layers" in " ".join(spec["title"]["subtitle"])
    alone = synthetic.frontier(references=0)
    (points,) = (each for each in figures.exit_frontier(alone).to_dict()["datasets"].values() if "setting" in each[0])
    assert len(points) == 4


def test_layers_that_are_right_stand_alone_where_nobody_judged_them(synthetic):
    panels = [figures.layers_right(synthetic.right(judged=judged)).to_dict()["hconcat"] for judged in (True, False)]
    assert [len(each) for each in panels] == [2, 1]
    assert "30.0%" in " ".join(figures.layers_right(synthetic.right()).to_dict()["title"]["subtitle"])
