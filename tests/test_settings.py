"""Specifications read from a shell, and written back."""

import math

import pytest

import workbench.probes
import workbench.techniques
from workbench.errors import SettingError
from workbench.models.tiny import tiny
from workbench.registry import PROBES, TECHNIQUES
from workbench.settings import build, describe, parse, spell


@pytest.mark.parametrize("registry", [TECHNIQUES, PROBES], ids=["techniques", "probes"])
def test_what_is_spelt_can_be_read_back(registry):
    for kind in registry.values():
        for instance in kind.examples():
            assert parse(spell(instance), registry) == [instance]


def test_a_setting_without_a_value_goes_there_and_back():
    every = workbench.probes.AttentionSparsity(queries=None)
    assert parse(spell(every), PROBES) == [every]


def test_several_are_joined_and_the_baseline_is_empty():
    assert [type(each).name for each in parse("prompt_lookup:ngram=2 + snap_kv:keep=0.25", TECHNIQUES)] == [
        "prompt_lookup",
        "snap_kv",
    ]
    assert parse("baseline", TECHNIQUES) == parse("", TECHNIQUES) == []


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("prompt_lookup:ngram", "key=value"),
        ("prompt_lookup:gram=2", "it has: draft, ngram"),
        ("prompt_lookup:ngram=99", "less than or equal to 16"),
        ("promt_lookup", "Did you mean prompt_lookup"),
        (
            "without_replacement_tree:branching=abc",
            "it is children by level, as 3-2-1; write for example branching=3-2-1",
        ),
        ("draft_model:model=", "at least 1 character"),
    ],
)
def test_what_cannot_be_read_says_what_can(spec, message):
    with pytest.raises(SettingError, match=message):
        parse(spec, TECHNIQUES)


@pytest.mark.parametrize("registry", [TECHNIQUES, PROBES], ids=["techniques", "probes"])
def test_absurd_values_are_refused_in_one_short_line_without_a_pattern(registry):
    """Every setting of everything that is registered, given what no setting means."""
    for kind in registry.values():
        for name, field in describe(kind).items():
            for value in ("nan", "inf", "-inf", "1e400", "9" * 5000, "-1", "abc\n", "(", "x" * 100_000):
                try:
                    built = build(kind, {name: value})
                except SettingError as error:
                    said = str(error)
                    assert len(said) < 500 and "\n" not in said and "pattern" not in said and "^" not in said
                    assert name in said and kind.name in said
                else:
                    assert isinstance(getattr(built, name), str | int | float | tuple)
                    assert not isinstance(getattr(built, name), float) or math.isfinite(getattr(built, name))
                    assert field["type"] != "string" or "pattern" not in field


LOOKUP = workbench.techniques.PromptLookup


@pytest.mark.parametrize("given", [LOOKUP(), "prompt_lookup", ["prompt_lookup"], [LOOKUP]])
def test_what_is_no_list_of_techniques_or_probes_is_told_how_to_write_one(given):
    model = tiny("llama")
    with pytest.raises(SettingError, match=r"write \[wb\.techniques\.PromptLookup\(\)\]"):
        workbench.run(model, [3, 4], given)
    if given != "prompt_lookup":  # which is a specification
        with pytest.raises(SettingError, match=r"write \[wb\.techniques\.PromptLookup\(\)\]"):
            workbench.compare(model, [[3, 4]], {"mine": given})
    with pytest.raises(SettingError, match=r"write \[wb\.probes\.LogitLens\(\)\]"):
        workbench.observe(model, [3, 4], given)


@pytest.mark.parametrize("given", [[LOOKUP()], LOOKUP(), "x"])
def test_recipes_without_names_are_told_how_to_name_them(given):
    with pytest.raises(SettingError, match="recipes are given by name"):
        workbench.compare(tiny("llama"), [[3, 4]], given)
