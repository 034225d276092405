"""Figures of the other probes, as data."""

import numpy as np
import pytest
from helpers import random_tokens

from workbench import figures
from workbench.errors import TraceError
from workbench.probes import ExpertCoactivation
from workbench.studies.observe import observe


def rows(chart, which=0):
    return list(chart.to_dict()["datasets"].values())[which]


def test_attention_sparsity_has_a_cell_for_every_head(seen):
    table = rows(figures.attention_sparsity(seen, mass=0.99))
    want = seen["probes/attention_sparsity/keys_needed_share"].sel(mass=0.99)
    assert len(table) == want.size
    for row in table[::5]:
        assert row["keys_needed_share"] == pytest.approx(
            float(want.sel(layer=row["layer"], head=row["head"])), rel=1e-4
        )


@pytest.mark.parametrize("statistic", ["keys_needed", "entropy", "first_share", "recent_share"])
def test_attention_sparsity_shows_any_of_its_statistics(seen, statistic):
    spec = figures.attention_sparsity(seen, statistic=statistic).to_dict()
    assert spec["encoding"]["color"]["field"] == statistic


def test_attention_sparsity_refuses_what_was_not_measured(seen):
    with pytest.raises(TraceError, match=r"mass=0\.5 was not measured"):
        figures.attention_sparsity(seen, mass=0.5)
    with pytest.raises(TraceError, match="none of"):
        figures.attention_sparsity(seen, statistic="size")


def test_many_heads_are_pooled_by_mean(long):
    chart = figures.attention_sparsity(long, statistic="entropy")
    assert "mean of 2 neighbouring heads" in " ".join(chart.to_dict()["title"]["subtitle"])
    first = next(row for row in rows(chart) if row["layer"] == 3 and row["head"] == 4)
    want = long["probes/attention_sparsity/entropy"].values[3, 4:6].mean()
    assert first["entropy"] == pytest.approx(want, rel=1e-4)


@pytest.mark.parametrize("name", ["seen", "long"])
def test_rows_of_the_attention_map_still_sum_to_one(name, request):
    table = rows(figures.attention_map(request.getfixturevalue(name)))
    sums = {}
    for row in table:
        sums[row["query"]] = sums.get(row["query"], 0) + row["share"]
    np.testing.assert_allclose(list(sums.values()), 1, atol=1e-3)


def test_distances_are_named_by_their_bins(seen):
    names = list(dict.fromkeys(row["distance"] for row in rows(figures.attention_distance(seen))))
    assert names == ["0", "1", "2 to 3", "4 to 7", "8 to 15", "16 to 31", "32 and more"]


def test_layer_similarity_keeps_both_ends_of_a_deep_model(long):
    table = rows(figures.layer_similarity(long))
    layers = sorted({row["layer"] for row in table})
    assert layers[0] == -1 and layers[-1] == 79 and len(layers) ** 2 == len(table)
    assert all(row["cka"] == 1 for row in table if row["layer"] == row["other"])


def test_layer_similarity_counts_every_position_the_same_unless_told_otherwise(seen):
    """Plain CKA, which one token may decide, is drawn on request and says so."""
    for directions, most, said in ((True, 1, "every position counts the same"), (False, 0.5, "decides nearly alone")):
        chart = figures.layer_similarity(seen, directions=directions)
        assert max(row["cka"] for row in rows(chart)) == most
        assert said in " ".join(chart.to_dict()["title"]["subtitle"])
    assert figures.layer_similarity(seen).to_dict() == figures.layer_similarity(seen, directions=True).to_dict()


def test_angular_distance_leaves_out_what_does_not_exist(seen):
    table = rows(figures.angular_distance(seen))
    assert all(row["start"] + row["span"] <= 12 for row in table) and len(table) == 12 * 13 // 2


def test_residual_contribution_has_three_panels_and_fewer_where_there_is_less(seen):
    spec = figures.residual_contribution(seen).to_dict()
    assert [panel["encoding"]["y"]["title"] for panel in spec["vconcat"]] == [
        "size of the addition / stream",
        "cosine with the stream",
        "KL without it [nats]",
    ]
    less = seen.copy()
    less["probes/residual_contribution"] = less["probes/residual_contribution"].to_dataset().drop_vars("skip_kl")
    assert len(figures.residual_contribution(less).to_dict()["vconcat"]) == 2


def test_experts_can_be_chosen_by_layer(seen):
    spec = figures.expert_coactivation(seen, layer=4).to_dict()
    (control,) = spec["params"]
    assert control["value"] == 4 and control["bind"]["options"] == [2 * i for i in range(12)]
    data = seen["probes/expert_coactivation"]
    row = next(row for row in rows(figures.expert_coactivation(seen)) if row["layer"] == 6 and row["expert"] == 3)
    np.testing.assert_allclose(row["rates"], data["coactivation"].sel(layer=6, expert=3), rtol=6e-3)
    assert row["load"] == pytest.approx(float(data["load"].sel(layer=6, expert=3)), rel=1e-4)


def test_a_pair_of_experts_is_shown_beside_what_chance_gives(tiny):
    seen = observe(tiny("olmoe"), random_tokens(40), [ExpertCoactivation()])
    spec = figures.expert_coactivation(seen).to_dict()
    row = next(row for row in rows(figures.expert_coactivation(seen)) if row["layer"] == 2 and row["expert"] == 3)
    expected = seen["probes/expert_coactivation"]["expected"].sel(layer=2, expert=3)
    np.testing.assert_allclose(row["chances"], expected, rtol=6e-3, atol=1e-9)
    titles = [tip.get("title") for tip in spec["hconcat"][0]["encoding"]["tooltip"]]
    assert titles[-2:] == ["by chance, of experts loaded so", "beyond chance"]


def test_experts_of_a_dense_layer_are_refused(seen):
    with pytest.raises(TraceError, match="layer 5 is not among the sparse layers"):
        figures.expert_coactivation(seen, layer=5)


def test_of_many_experts_the_most_loaded_are_kept(long):
    table = rows(figures.expert_coactivation(long))
    load = long["probes/expert_coactivation/load"].mean("layer").values
    assert {row["expert"] for row in table} == set(np.argsort(-load)[:64].tolist())
    assert sum(len(row["rates"]) for row in table) <= 100_000


def test_residual_velocity_shows_medians_and_every_position(every_probe):
    trace = every_probe(20)
    data = trace["probes/residual_velocity"].to_dataset()
    spec = figures.residual_velocity(trace).to_dict()
    titles = [panel["layer"][0]["encoding"]["y"]["title"] for panel in spec["vconcat"][:3]]
    assert titles == ["move / stream", "move towards the end", "cosine with the end"]
    tables = spec["datasets"].values()
    speeds = next(table for table in tables if len(table) == data.sizes["block"] and "middle" in table[0])
    for row in speeds:
        assert row["middle"] == pytest.approx(float(data.speed.sel(block=row["depth"]).median()), rel=1e-4)
    cells = next(table for table in tables if "arrival" in table[0])
    assert len(cells) == data["arrival"].size
    for row in cells[::7]:
        want = data["arrival"].sel(layer=row["layer"], position=row["position"])
        assert row["arrival"] == pytest.approx(float(want), abs=1e-4)


def test_depth_use_has_a_cell_for_every_pair_of_blocks(every_probe):
    trace = every_probe(20)
    data = trace["probes/depth_use"].to_dataset()
    spec = figures.depth_use(trace).to_dict()
    maps = [chart["title"] for chart in spec["vconcat"][0]["hconcat"]]
    assert maps == ["all tokens skip it", "only earlier tokens skip it"]
    tables = [table for table in spec["datasets"].values() if "effect" in table[0]]
    for table, name in zip(tables, ("present_effect", "future_effect"), strict=True):
        assert len(table) == data[name].size
        for row in table:
            want = float(data[name].sel(skipped=row["skipped"], block=row["block"]))
            assert row["effect"] == pytest.approx(want, rel=1e-4, abs=1e-9)
    (lines,) = (table for table in spec["datasets"].values() if "change" in table[0])
    assert len(lines) == 2 * data.sizes["skipped"]


def test_effective_rank_has_a_panel_for_each_difference(every_probe):
    trace = every_probe(20)
    data = trace["probes/effective_rank"].to_dataset()
    panels = figures.effective_rank(trace).to_dict()
    assert [panel["encoding"]["y"]["title"] for panel in panels["vconcat"]] == [
        "effective rank", "velocity", "acceleration",
    ]  # fmt: skip
    for table, name, along in zip(
        panels["datasets"].values(), ("effective_rank", "velocity", "acceleration"), ("length", "later", "latest")
    ):
        assert len(table) == data[name].size
        for row in table:
            want = float(data[name].sel({"layer": row["layer"], along: row["tokens"]}))
            assert row["value"] == pytest.approx(want, rel=1e-4, abs=1e-6)
    short = every_probe(3)
    assert len(figures.effective_rank(short).to_dict()["vconcat"]) == 2


def test_layer_maps_marks_the_best_layer_for_each(synthetic):
    tree = synthetic.mapped()
    data = tree["layer_maps"].to_dataset()
    spec = figures.layer_maps(tree).to_dict()
    tables = list(spec["datasets"].values())
    cells = next(table for table in tables if "error" in table[0])
    assert len(cells) == data["error"].size
    for row in cells[::5]:
        want = float(data["error"].sel(layer=row["layer"], other_layer=row["other"]))
        assert row["error"] == pytest.approx(want, rel=1e-4) and row["shown"] == pytest.approx(min(want, 1), rel=1e-4)
    best = next(table for table in tables if "best_depth" in table[0])
    assert {row["other"]: row["layer"] for row in best} == dict(
        zip(data["other_layer"].values.tolist(), data["best_layer"].values.tolist())
    )
