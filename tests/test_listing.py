"""What the registry says, as rows and text."""

import pytest

from workbench import listing
from workbench.engine import SLOTS


@pytest.mark.parametrize("kind", ["techniques", "probes"])
def test_every_class_has_a_row_with_its_settings(kind):
    rows = listing.rows(kind)
    assert sorted(row["name"] for row in rows) == sorted(listing.registered(kind))
    for row in rows:
        assert row["summary"] and row["paper"] and isinstance(row["settings"], dict)
    text = listing.plain(kind)
    for row in rows:
        assert row["summary"] in text and all(f"{name}=" in text for name in row["settings"])


def test_bounds_and_choices_are_said():
    text = listing.plain("techniques")
    assert "ngram=3  (1 … 16) longest n-gram searched for" in text
    assert "(avg | max)" in text
    assert listing.markdown().count("\n") == 1 + len(listing.rows("techniques"))


def test_techniques_stand_under_their_slots_in_the_engine_s_order():
    first = [row["slots"][0] for row in listing.rows("techniques")]
    assert first == sorted(first, key=list(SLOTS).index) and set(first) == set(listing.by_slot())
    text = listing.plain("techniques").splitlines()
    assert [line[:-1] for line in text if line.endswith(":") and line[:-1] in SLOTS] == list(dict.fromkeys(first))
    named = [row.split("|")[1].strip(" *") for row in listing.markdown().splitlines()[2:]]
    assert [slot for slot in named if slot] == list(listing.by_slot())
