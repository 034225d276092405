"""Figures of lenses and exits, as data, from what the probes write of a tiny model."""

import json

import numpy as np
import pytest

from workbench import figures
from workbench.errors import TraceError
from workbench.models.tiny import tiny
from workbench.probes import ExitOracle, LogitLens, TunedLens
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
