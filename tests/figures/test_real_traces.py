"""Figures over what probes and studies really write, from tiny models."""

import json
import threading

import pytest

from workbench import artifacts, figures
from workbench.figures import FIGURES
from workbench.registry import PROBES
from workbench.studies.budget_met import budget_met
from workbench.studies.compare import compare
from workbench.studies.compatibility import compatibility
from workbench.studies.layer_maps import layer_maps
from workbench.studies.routing_gap import routing_gap
from workbench.techniques import BudgetedExit
from workbench.training import curve


@pytest.fixture(scope="module")
def observed(every_probe):
    return every_probe(20)


@pytest.fixture(scope="module")
def compared(tiny):
    return compare(
        tiny("llama"),
        [[3, 4, 5, 6, 3, 4, 5], [7, 8, 9, 7, 8]],
        {"lookup": "prompt_lookup", "recycling": "token_recycling"},
        max_new_tokens=12,
        hardware=["H100 SXM"],
    )


@pytest.fixture(scope="module")
def together(tiny):
    return compatibility(tiny("llama"), ["prompt_lookup", "snap_kv"])


@pytest.fixture(scope="module")
def trained():
    return curve.trace(json.loads((artifacts.folder() / "hydra_heads.json").read_text("utf-8")))


@pytest.fixture(scope="module")
def mapped(tiny):
    model, texts = tiny("llama"), [list(range(first, first + 24)) for first in range(3, 9)]
    return layer_maps(model, model.variant(range(model.layers - 1)), texts)


@pytest.fixture(scope="module")
def budgets(tiny):
    return budget_met(tiny("llama"), BudgetedExit.examples(), [list(range(3, 12))], max_new_tokens=6)


@pytest.fixture(scope="module")
def routed(tiny):
    return routing_gap(tiny("llama"), [list(range(3, 12))], "untrained", "untrained", samples=2)


def test_every_figure_draws_from_real_data(observed, compared, together, trained, mapped, budgets, routed):
    traces = observed, compared.tree, together, trained, mapped, budgets, routed
    for name, figure in FIGURES.items():
        trace = next(each for each in traces if figure.applies(each))
        spec = figure.draw(trace).to_dict()
        assert all(spec["datasets"].values()), name


def test_every_probe_has_a_figure(observed):
    drawn = {need.split("/")[1] for figure in FIGURES.values() for need in figure.needs if need.startswith("probes/")}
    assert drawn == set(observed["probes"].children) == set(PROBES)


def test_both_reports_can_be_written(observed, compared, tmp_path):
    seen = figures.report(observed, tmp_path / "seen.html").read_text("utf-8")
    assert seen.count("<figure") == sum(figure.applies(observed) for figure in FIGURES.values())
    study = figures.report(compared, tmp_path / "study.html").read_text("utf-8")
    assert study.count("<caption") >= 3 and "prompt_lookup" in study


def test_a_study_stopped_before_its_end_still_has_a_report(tiny, tmp_path):
    cancel = threading.Event()
    cancel.set()
    study = compare(
        tiny("llama"), [[3, 4, 5]], {"lookup": "prompt_lookup"}, max_new_tokens=4, cancel=cancel, hardware=()
    )
    page = figures.report(study, tmp_path / "part.html").read_text("utf-8")
    assert "Partial: it was stopped" in page and page.count("No answer: it was not reached.") == 2
    assert "Not drawn: quality_speed (" in page and "<h2>Settings and versions</h2>" in page
