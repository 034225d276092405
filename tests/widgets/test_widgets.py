"""Panels are built from the registry, run the library, and show errors as messages."""

import pytest

from workbench.models.tiny import tiny
from workbench.registry import TECHNIQUES
from workbench.settings import describe
from workbench.widgets import RecipePicker, explore, side_by_side
from workbench.widgets.recipe import control


@pytest.mark.parametrize("name", TECHNIQUES)
def test_every_technique_can_be_chosen_and_keeps_its_defaults(name):
    picker = RecipePicker("left", name)
    (technique,) = picker.recipe()
    assert technique == TECHNIQUES[name]()


def test_settings_of_a_choice_are_passed_on():
    picker = RecipePicker("left")
    picker.choose("prompt_lookup", ngram=2, draft=5)
    picker.choose("snap_kv", keep=0.25)
    assert {type(t).name: t for t in picker.recipe()}["snap_kv"].keep == 0.25
    assert len(picker.recipe()) == 2


def test_a_technique_of_two_slots_can_be_chosen_in_one_place():
    picker = RecipePicker("left")
    offered = [name for choice in picker._choices.values() for name in choice.options if name != "none"]
    assert sorted(offered) == sorted(TECHNIQUES)
    assert picker._choices["draft_length"].description == "draft length"


@pytest.mark.parametrize("name", TECHNIQUES)
def test_controls_hold_to_the_bounds(name):
    for key, field in describe(TECHNIQUES[name]).items():
        widget = control(key, field)
        assert widget.value == field["default"]
        if "maximum" in field:
            assert widget.max == field["maximum"]


def test_an_error_is_shown_and_the_panel_stays():
    panel = side_by_side(tiny("llama"), "words for a model without a tokenizer")
    panel.run()
    assert "no tokenizer" in panel._message.value and not panel._run.disabled


@pytest.mark.bundled(seconds=10)
def test_panel_compares_and_explorer_draws(bundled):
    import workbench as wb

    panel = side_by_side(bundled, "One two three one two", max_new_tokens=4)
    panel.run()
    assert [run["name"] for run in panel.study.runs] == ["baseline", "left", "right"]
    assert len(panel._output.outputs) == 2
    seen = wb.observe(bundled, "One two three", [wb.probes.LogitLens()])
    assert explore(wb.figures.logit_lens, seen).children[0].children[0].options[0] == "probability"
