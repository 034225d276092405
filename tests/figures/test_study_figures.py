"""Figures of a study, as data."""

from itertools import pairwise

import numpy as np
import pytest

from workbench import figures
from workbench.errors import TraceError
from workbench.figures._runs import each_token, labels
from workbench.metrics import mean_interval, median_interval


def tables(chart):
    return list(chart.to_dict()["datasets"].values())


def runs_table(chart):
    return next(table for table in tables(chart) if "speed_low" in table[0])


def test_quality_speed_places_runs_by_median_speed_and_mean_quality(study):
    table = runs_table(figures.quality_speed(study))
    assert [row["run"] for row in table][:3] == ["baseline", "prompt lookup", "half the KV cache"]
    for index, row in enumerate(table):
        want = median_interval(study["timing/speedup"].values[index])
        assert row["speed"] == want.median and row["pairs"] == "5 of 5"
        assert (row["speed_low"], row["speed_high"]) == ((want.low, want.high) if want.bounded else (None, None))
        mean, low, high = mean_interval(study["scores/top1_agreement"].values[index], None, 0, 1)
        assert row["quality"] == pytest.approx(mean)
        assert row["quality_low"] == (None if np.isnan(low) else pytest.approx(low))
        assert row["quality_high"] == (None if np.isnan(high) else pytest.approx(high))
    assert [row["speed_low"] is None for row in table] == [True] + [False] * 7, "the baseline's own ratio is 1"


def test_the_axis_says_measured_or_modelled(study):
    def axis(chart):
        spec = chart.to_dict()
        return next(layer["encoding"]["x"]["title"] for layer in spec["layer"] if "title" in layer["encoding"]["x"])

    assert axis(figures.quality_speed(study)).startswith("measured")
    modelled = figures.quality_speed(study, hardware="RTX 4090")
    assert axis(modelled).startswith("modelled") and "RTX 4090" in axis(modelled)
    assert "modelled" in modelled.to_dict()["title"]["text"]
    want = np.median(study["modelled/speedup"].values[1, :, 1])
    assert runs_table(modelled)[1]["speed"] == pytest.approx(want)


def test_less_is_better_turns_the_axis_and_the_front(study):
    spec = figures.quality_speed(study, quality="kl").to_dict()
    scale = next(
        layer["encoding"]["y"]["scale"] for layer in spec["layer"] if "scale" in layer["encoding"].get("y", {})
    )
    assert scale["reverse"] is True
    table = runs_table(figures.quality_speed(study, quality="kl"))
    assert next(row for row in table if row["run"] == "prompt lookup")["front"]
    assert not next(row for row in table if row["run"] == "draft model")["front"]


def test_labels_of_runs_do_not_overlap(study):
    table = runs_table(figures.quality_speed(study))
    xs, ys = ([row[f"label_{axis}"] for row in table] for axis in "xy")
    spec = figures.quality_speed(study).to_dict()
    domains = {axis: next(layer["encoding"][axis]["scale"]["domain"] for layer in spec["layer"]
                          if "scale" in layer["encoding"].get(axis, {})) for axis in "xy"}  # fmt: skip
    left = [620 * (x - domains["x"][0]) / np.ptp(domains["x"]) for x in xs]
    down = [360 * (domains["y"][1] - y) / np.ptp(domains["y"]) for y in ys]
    boxes = [(x, x + 6 * len(row["run"]), y) for x, y, row in zip(left, down, table, strict=True)]
    for i, one in enumerate(boxes):
        for other in boxes[i + 1 :]:
            assert abs(one[2] - other[2]) >= 13.9 or one[1] <= other[0] or other[1] <= one[0]


def test_an_absent_quality_or_hardware_is_refused(study):
    with pytest.raises(TraceError, match="quality='score'"):
        figures.quality_speed(study, quality="score")  # all NaN
    with pytest.raises(TraceError, match="there is H100, RTX 4090"):
        figures.quality_speed(study, hardware="TPU")


def test_a_run_that_stopped_is_hollow_and_not_on_the_front(study):
    tree = study.copy()
    speed, written = study["timing/speedup"].copy(deep=True), study["scores/new_tokens"].copy(deep=True)
    speed[4, :3], speed[4, 3:], written[4, :3] = np.nan, 9.0, 1
    tree["timing/speedup"], tree["scores/new_tokens"] = speed, written
    chart = figures.quality_speed(tree, quality="kl")
    row = next(row for row in runs_table(chart) if row["run"].startswith("layer skip"))
    assert row["speed"] == 9.0 and row["pairs"] == "2 of 5" and row["run"] == "layer skip (n 2)"
    assert row["speed_low"] is None and not row["comparable"] and not row["front"]
    assert any(other["front"] for other in runs_table(chart) if other["speed"] < 9)
    assert "Hollow" in " ".join(chart.to_dict()["title"]["subtitle"])
    assert "Hollow" not in " ".join(figures.quality_speed(study).to_dict()["title"]["subtitle"])


def test_few_prompts_have_points_and_no_bars(synthetic):
    table = runs_table(figures.quality_speed(synthetic.study(prompts=4)))
    bounds = [f"{name}_{end}" for name in ("speed", "quality") for end in ("low", "high")]
    assert all(row[name] is None for row in table for name in bounds)
    assert all(np.isfinite([row["label_x"], row["label_y"], row["speed"]]).all() for row in table)


def test_equal_names_are_told_apart(synthetic):
    tree = synthetic.study(runs=3)
    tree.attrs["runs"] = '[{"name": "same"}, {"name": "same"}, {"name": "same\\n"}]'
    assert labels(tree) == ["same", "same (2)", "same⏎"]


def test_cost_breakdown_divides_by_decoded_tokens(study):
    chart = figures.cost_breakdown(study)
    spec = chart.to_dict()
    titles = [panel["layer"][0]["encoding"]["x"]["title"] for row in spec["vconcat"] for panel in row["hconcat"]]
    assert titles == [
        "measured time per decoded token [ms]",
        "counted operations per decoded token [GFLOP]",
        "counted bytes moved per decoded token [MB]",
        "largest cache [MB]",
    ]
    bars = [spec["datasets"][panel["layer"][0]["data"]["name"]] for row in spec["vconcat"] for panel in row["hconcat"]]
    steps = study["steps"].isel(run=1, step=slice(1, None))
    want = float(steps["flops"].sum() / steps["tokens"].clip(min=0).sum()) / 1e9
    assert bars[1][1]["value"] == pytest.approx(want)
    assert bars[1][1]["ratio"] == pytest.approx(want / bars[1][0]["value"])
    assert bars[0][1]["low"] <= bars[0][1]["value"] <= bars[0][1]["high"]
    assert bars[3][0]["value"] == pytest.approx(23)


def test_modelled_time_says_that_nothing_was_timed(study):
    spec = figures.modelled_time(study).to_dict()
    assert spec["title"]["text"].startswith("Modelled") and "not a measurement" in spec["title"]["subtitle"][0]
    panels = [panel["layer"][0]["encoding"]["x"]["title"] for row in spec["vconcat"] for panel in row["hconcat"]]
    assert panels == ["H100: modelled [ms]", "RTX 4090: modelled [ms]"]


def test_the_strip_shares_a_steps_seconds_among_its_tokens(study):
    (table,) = tables(figures.compute_strip(study, run="prompt lookup", prompt=2))
    facts, text = study["steps"].isel(run=1, prompt=2), study["text"].isel(run=1, prompt=2)
    assert [row["step"] for row in table] == text["step"].values.tolist()
    assert [row["draft"] for row in table] == text["accepted_draft"].values.tolist()
    total = {}
    for row in table:
        total[row["step"]] = total.get(row["step"], 0) + row["cost"]
        assert row["step_ms"] == pytest.approx(1e3 * float(facts["seconds"][row["step"]]), rel=1e-4)
    for step, cost in total.items():
        assert cost == pytest.approx(1e3 * float(facts["seconds"][step]), rel=1e-3)


def test_keys_of_the_strip_are_not_shared(study):
    (table,) = tables(figures.compute_strip(study, run=1, cost="keys_read"))
    assert all(row["cost"] == row["keys_read"] for row in table)


@pytest.mark.parametrize(("cost", "unit"), [("seconds", "[ms]"), ("layers", "[layers]"), ("keys_read", "[keys]"),
                                            ("flops", "[GFLOP]"), ("bytes", "[MB]")])  # fmt: skip
def test_the_strip_names_the_unit_of_its_cost(study, cost, unit):
    spec = figures.compute_strip(study, cost=cost).to_dict()
    assert unit in spec["layer"][0]["encoding"]["color"]["legend"]["title"]


def test_strips_of_all_runs_share_one_scale(study):
    domains = [
        figures.compute_strip(study, run=run).to_dict()["layer"][0]["encoding"]["color"]["scale"]["domain"]
        for run in (0, 1)
    ]
    assert domains[0] == domains[1]


def test_the_strip_wraps_and_does_not_overlap(study):
    (table,) = tables(figures.compute_strip(study, run=0))
    for one, other in pairwise(table):
        assert other["row"] == one["row"] + 1 or (other["row"] == one["row"] and other["start"] >= one["end"] - 1e-3)
        assert one["end"] <= 92


def test_the_strip_can_be_cropped_and_says_so(study):
    chart = figures.compute_strip(study, run=0, first=10)
    assert len(tables(chart)[0]) == 10
    assert "The first 10 of 64 tokens are shown." in " ".join(chart.to_dict()["title"]["subtitle"])


@pytest.mark.parametrize("settings", [{"run": "nobody"}, {"run": 8}, {"prompt": 5}, {"prompt": -1}, {"cost": "joy"}])
def test_what_the_study_does_not_hold_is_refused(study, settings):
    with pytest.raises(TraceError):
        figures.compute_strip(study, **settings)


def test_a_run_that_failed_is_refused_with_its_name(synthetic):
    tree = synthetic.study(runs=2)
    tree["text/id"][1] = -1
    with pytest.raises(TraceError, match="'prompt lookup' made no tokens"):
        figures.compute_strip(tree, run=1)


def test_acceptance_adds_up(study):
    (table,) = tables(figures.acceptance(study, run="prompt lookup", prompt=0))
    steps = study["steps"].isel(run=1, prompt=0)
    drafted = steps["drafted"].values[steps["drafted"].values >= 0]
    assert sum(row["high"] - row["low"] for row in table) == drafted[1:].sum()
    kept = [row["high"] for row in table if row["kind"] == "drafted, accepted"]
    assert kept == steps["accepted"].values[1 : 1 + len(kept)].tolist()
    said = " ".join(figures.acceptance(study, run=1).to_dict()["title"]["subtitle"])
    assert "drafted tokens were accepted" in said and "Mean over prompts." in said
    tokens = study["steps/tokens"].values[1, :, 1:]
    mean = tokens[tokens >= 0].sum() / (tokens >= 0).sum()
    assert f"mean accepted tokens {mean:.2f} ({(tokens >= 0).sum()} decode steps on 5 of 5 prompts)" in said


def test_acceptance_of_a_long_run_is_binned(synthetic):
    chart = figures.acceptance(synthetic.study(runs=2, prompts=2, tokens=900), run=1)
    assert len(tables(chart)[0]) <= 240 and "mean of" in " ".join(chart.to_dict()["title"]["subtitle"])


def test_a_run_without_drafts_says_so(study):
    assert "drafts nothing" in figures.acceptance(study, run=0).to_dict()["title"]["subtitle"][0]


def test_each_token_leaves_padding_out(study):
    values = each_token(study["steps"].to_dataset(), "layers").values
    padded = study["steps/tokens"].values < 0
    assert np.isnan(values[padded]).all() and np.isfinite(values[~padded]).all()
