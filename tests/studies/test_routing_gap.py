"""The gap between router and oracle: each way's loss by hand, and budgets kept."""

import threading

import numpy as np
import pytest
import torch

import workbench as wb
from workbench import figures, trace
from workbench.errors import SettingError
from workbench.models.tiny import tiny
from workbench.parts.neuron_predictor import read_of
from workbench.parts.small_big import BIG, router_maps, small_mlps
from workbench.parts.small_big.paths import Paths
from workbench.parts.small_big.routers import choose

TEXTS = [torch.randint(3, 96, (12,), generator=torch.Generator().manual_seed(place)).tolist() for place in range(2)]
MADE = {"weights": "untrained", "small": "untrained"}


@pytest.fixture(scope="module")
def found():
    return trace.check(wb.routing_gap(tiny("llama"), TEXTS, **MADE, tokens=3, samples=5, chances=(0, 0.45, 0.5, 0.9)))


def test_the_oracle_is_best_and_more_big_mlps_never_hurt_it(found):
    data = found["routing_gap"].to_dataset()
    assert data.budget.values.tolist() == [0, 1, 2, 3, 4] and data.sizes["place"] == 6
    assert (data.oracle_loss <= data.best_random_loss + 1e-6).all()
    assert (data.best_random_loss <= data.random_loss + 1e-6).all()
    assert (np.diff(data.oracle_loss.values, axis=0) <= 1e-6).all()
    np.testing.assert_allclose(data.random_loss[-1], data.whole_loss, rtol=1e-3)


def test_the_routers_way_is_its_own(found):
    """Its choices, layer by layer, made by hand, as a way whose loss is asked for."""
    data, model = found["routing_gap"].to_dataset(), tiny("llama")
    routers, small = router_maps(model, "untrained"), small_mlps(model, "untrained")
    paths, place = Paths.of(model, small, torch.tensor(TEXTS[0])), 6
    for at, chance in enumerate(data.chance.values):
        way = []

        def one(block, x, chance=chance, way=way):
            kinds = choose(routers[block.index](read_of(block, x)), chance)
            way.append(int(kinds))
            return torch.tensor([0]), kinds

        paths.follow(place, one)
        assert float(data.router_big[at, 0]) == way.count(BIG)
        assert float(paths.losses(place, torch.tensor([way]))) == pytest.approx(
            float(data.router_loss[at, 0]), rel=1e-3
        )
    assert data.router_big[0].values.tolist() == [4] * 6 and float(data.router_big[-1].sum()) < 24
    np.testing.assert_allclose(data.router_loss[0], data.whole_loss, rtol=1e-3)
    gap = data.router_loss.mean("place") - np.interp(
        data.router_big.mean("place"), data.budget, data.oracle_loss.mean("place")
    )
    np.testing.assert_allclose(data.gap, gap, rtol=1e-5)


def test_its_figure_has_a_line_for_each_way(found):
    data = found["routing_gap"].to_dataset()
    rows = [row for part in figures.routing_gap(found).to_dict()["datasets"].values() for row in part]
    lines = {row["way"] for row in rows if "way" in row}
    assert lines == {"oracle", "best of some random ways", "random, mean", "trained router"}
    oracle = sorted((row["big"], row["loss"]) for row in rows if row.get("way") == "oracle")
    np.testing.assert_allclose([loss for _, loss in oracle], data.oracle_loss.mean("place"), rtol=1e-4)
    routed = sorted(row["big"] for row in rows if row.get("way") == "trained router")
    np.testing.assert_allclose(routed, sorted(data.router_big.mean("place").values), rtol=1e-4)


def test_it_says_how_far_it_is_and_can_be_stopped():
    said, cancel = [], threading.Event()

    def progress(done, total):
        said.append((done, total))
        cancel.set()

    assert wb.routing_gap(tiny("llama"), TEXTS, **MADE, tokens=2, samples=1, progress=progress, cancel=cancel) is None
    assert said == [(1, 4)]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"prompts": [[5, 6]]}, "three tokens"),
        ({"prompts": []}, "three tokens"),
        ({"budgets": [2, 1]}, r"increasing, of 0 … 4, and not \[2, 1\]"),
        ({"budgets": [0, 5]}, "increasing"),
        ({"chances": (0.5, 1.0)}, "chances"),
        ({"samples": 0}, "at least 1"),
    ],
)
def test_what_does_not_fit_is_refused(settings, said):
    with pytest.raises(SettingError, match=said):
        wb.routing_gap(tiny("llama"), **{"prompts": TEXTS, **MADE, **settings})
