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
from workbench.studies.exit_calibration import exit_calibration
from workbench.studies.exit_frontier import exit_frontier
from workbench.studies.layer_maps import layer_maps
from workbench.studies.layers_right import layers_right
from workbench.studies.routing_gap import routing_gap
from workbench.techniques import BudgetedExit, ConfidenceExit
from workbench.training import curve


@pytest.fixture(scope="module")
def observed(every_probe):
    return every_probe(20)


@pytest.fixture(scope="module")
def compared(tiny):
    return compare(
        tiny("llama"),
        [[3, 4, 5, 6, 3, 4, 5], [7, 8, 9, 7, 8]],
        {"exits": "joint_exit:weights=untrained", "lookup": "prompt_lookup", "recycling": "token_recycling"},
        max_new_tokens=12,
        hardware=["H100 SXM"],
    )


PROMPT = list(range(3, 12))


def mapped(model):
    texts = [list(range(first, first + 24)) for first in range(3, 9)]
    return layer_maps(model, model.variant(range(model.layers - 1)), texts)


OTHERS = (
    lambda model: compatibility(model, ["prompt_lookup", "snap_kv"]),
    lambda model: curve.trace(json.loads((artifacts.folder() / "hydra_heads.json").read_text("utf-8"))),
    mapped,
    lambda model: budget_met(model, BudgetedExit.examples(), [PROMPT], max_new_tokens=6),
    lambda model: routing_gap(model, [PROMPT], "untrained", "untrained", samples=2),
    lambda model: exit_calibration(model, [PROMPT], "untrained", "untrained", max_new_tokens=6),
    lambda model: exit_frontier(model, ConfidenceExit.examples()[:1], [PROMPT], max_new_tokens=6),
    lambda model: layers_right(model, [list(range(3, 24))], lens="logit"),
)
"""From a model, a trace that is neither of a run nor a study."""


def test_every_figure_draws_from_real_data(observed, compared, tiny):
    traces = observed, compared.tree, *(make(tiny("llama")) for make in OTHERS)
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
