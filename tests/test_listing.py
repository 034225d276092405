"""What the registry says, as rows and text."""

import pytest

from workbench import listing


@pytest.mark.parametrize("kind", ["techniques", "probes"])
def test_every_class_has_a_row_with_its_settings(kind):
    rows = listing.rows(kind)
    assert [row["name"] for row in rows] == list(listing.registered(kind))
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
