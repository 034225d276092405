"""What holds of all figures, by their data rather than their pixels."""

import json

import altair as alt
import pytest
import xarray as xr

from workbench import figures
from workbench.errors import TraceError
from workbench.figures import FIGURES
from workbench.figures._theme import configuration


def walk(value):
    """Every dict in a specification."""
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from walk(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from walk(inner)


def channels(spec):
    """Every channel of every encoding that reads a field, with its name."""
    for part in walk({key: value for key, value in spec.items() if key != "datasets"}):
        for name, channel in part.get("encoding", {}).items():
            for one in channel if isinstance(channel, list) else [channel]:
                if isinstance(one, dict) and "field" in one:
                    yield name, one


def test_the_registry_holds_the_public_functions():
    assert set(FIGURES) <= set(figures.__all__)
    assert all(FIGURES[name].draw is getattr(figures, name) for name in FIGURES)
    assert len(FIGURES) >= 13


@pytest.mark.parametrize("name", FIGURES)
def test_it_is_a_valid_chart_with_a_title_that_those_who_cannot_see_hear(name, draw):
    chart = draw(name)
    assert isinstance(chart, alt.TopLevelMixin)
    spec = chart.to_dict()  # validates against the schema
    assert spec["title"]["text"] and spec["title"]["text"] in spec["description"]
    assert json.loads(json.dumps(spec, allow_nan=False)) == spec


@pytest.mark.parametrize("name", FIGURES)
def test_every_field_it_names_is_in_its_data_with_the_type_it_names(name, draw):
    spec = draw(name).to_dict()
    made = {"rate", "other", "steps", "each", "kept"}  # unfolded or summed in the page
    rows = [row for data in spec["datasets"].values() for row in data]
    for channel, encoding in channels(spec):
        field = encoding["field"]
        values = [row[field] for row in rows if row.get(field) is not None]
        assert values or field in made, f"{channel} reads {field!r}, which no row has"
        if encoding.get("type") == "quantitative":
            assert all(isinstance(value, int | float) for value in values), field


@pytest.mark.parametrize("name", FIGURES)
def test_axes_and_legends_say_what_they_show(name, draw):
    spec = draw(name).to_dict()
    for channel, encoding in channels(spec):
        if channel not in ("x", "y", "color") or encoding.get("axis", "") is None or encoding.get("title", "") is None:
            continue
        title = encoding.get("title") or (encoding.get("legend") or {}).get("title")
        silent = channel in ("x", "y") and encoding["type"] == "quantitative" and title is None  # rules on an axis
        assert silent or title, (channel, encoding)
        assert silent or encoding["type"] != "quantitative" or title != encoding["field"], (channel, encoding)


@pytest.mark.parametrize("name", FIGURES)
def test_long_traces_are_reduced_below_five_thousand_rows(name, long, synthetic, every_probe):
    figure = FIGURES[name]
    others = (make(**large) for make, large in synthetic.OTHERS.items())
    traces = long, synthetic.study(runs=2, prompts=1, tokens=6000), *others
    tree = next((each for each in traces if figure.applies(each)), None) or every_probe(100)
    spec = figure.draw(tree, **({"first": 10**6} if name == "compute_strip" else {})).to_dict()
    assert sum(len(rows) for rows in spec["datasets"].values()) <= 5000


@pytest.mark.parametrize("name", ["logit_lens", "attention_map", "layer_similarity", "expert_coactivation"])
def test_what_was_left_out_is_said(name, long):
    notes = " ".join(FIGURES[name].draw(long).to_dict()["title"]["subtitle"])
    assert any(word in notes for word in ("shown", "bins", "chosen"))


@pytest.mark.parametrize("name", FIGURES)
def test_it_wears_the_house_configuration_and_leaves_the_global_theme_alone(name, draw):
    config = draw(name).to_dict()["config"]
    assert config["axis"] == configuration()["axis"] and config["background"] == "transparent"
    assert alt.theme.active == "default"


def test_a_study_is_drawn_like_its_tree(study):
    class Study:
        tree = study

    assert figures.quality_speed(Study()).to_dict() == figures.quality_speed(study).to_dict()


def test_what_is_neither_trace_nor_study_is_refused():
    with pytest.raises(TraceError, match="not from str"):
        figures.logit_lens("a string")


def test_a_trace_without_the_data_names_what_is_missing(seen, study):
    with pytest.raises(TraceError, match=r"quality_speed needs scores/top1_agreement"):
        figures.quality_speed(seen)
    with pytest.raises(TraceError, match=r"logit_lens needs .*probes/logit_lens/top_token"):
        figures.logit_lens(study)
    empty = xr.DataTree.from_dict(
        {"/": study.to_dataset(), "modelled": study["modelled"].to_dataset().isel(hardware=[])}
    )
    with pytest.raises(TraceError, match="modelled/seconds"):
        figures.modelled_time(empty)
