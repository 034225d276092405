"""Waits of techniques as they are kept, and their rows; that they are today's is a test of the stand-in."""

import json

import pytest
from typer.testing import CliRunner

import workbench.techniques
from workbench import cli, listing
from workbench.errors import TraceError
from workbench.registry import TECHNIQUES
from workbench.studies import synchronisations
from workbench.studies.synchronisations import Waits, count, recipe, refresh, stored

assert workbench.techniques, "imported to fill the registry"


def test_every_technique_has_its_row():
    assert set(stored()) == set(TECHNIQUES)
    said = json.loads(CliRunner().invoke(cli.app, ["techniques", "--json"]).stdout)
    for row in said:
        waits = row["synchronisations"]
        assert waits["recipe"].startswith(row["name"])
        assert waits.get("reason") or (waits["waits_per_step"] >= 1 and waits["uploads_per_step"] >= 0)


def test_one_that_was_not_counted_has_none(monkeypatch):
    monkeypatch.setattr(synchronisations, "stored", dict)
    assert {row["synchronisations"] for row in listing.rows("techniques")} == {None}


def test_means_are_over_steps():
    assert Waits("x", steps=3, waits=10, uploads=1).row() == {
        "recipe": "x", "waits_per_step": 3.33, "uploads_per_step": 0.33
    }  # fmt: skip
    assert Waits("x", reason="no").row() == {"recipe": "x", "reason": "no"}


def test_what_acts_on_drafts_alone_is_counted_with_a_drafter():
    assert [each.name for each in recipe("goodput")] == ["goodput", "draft_model"]
    assert [each.name for each in recipe("snap_kv")] == ["snap_kv"]
    assert [each.name for each in recipe("lexical_units")] == ["lexical_units"], "it drafts itself"


def test_a_technique_that_does_not_fit_says_why():
    waits = count("cross_vocabulary_draft")
    assert not waits.steps and "needs tokenizers" in waits.reason


def test_a_folder_is_written_anew_and_read_back(monkeypatch, tmp_path):
    names = ["prompt_lookup", "snap_kv"]
    monkeypatch.setattr(TECHNIQUES, "_classes", {name: TECHNIQUES[name] for name in names})
    (tmp_path / "gone.json").write_text("{}")
    told = []
    made = refresh(tmp_path, lambda *each: told.append(each))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["prompt_lookup.json", "snap_kv.json"]
    assert stored(tmp_path) == made and told == [(0, 2, "prompt_lookup"), (1, 2, "snap_kv")]
    (tmp_path / "snap_kv.json").write_text('{"waits": 3}')
    with pytest.raises(TraceError, match="snap_kv"):
        stored(tmp_path)
