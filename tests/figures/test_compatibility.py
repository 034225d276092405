"""The matrix of techniques, as data."""

import json

import pytest

from workbench import figures
from workbench.figures.compatibility import LOOKS, MOST


def cells(tree):
    """Cells of the two maps: by condition, and by technique."""
    spec = figures.compatibility(tree).to_dict()
    named = [
        spec["datasets"][panel["layer"][0].get("data", panel.get("data", {}))["name"]] for panel in spec["hconcat"]
    ]
    return named


@pytest.fixture(scope="module")
def tree(synthetic):
    return synthetic.compatibility()


def test_every_cell_is_what_the_trace_says(tree, synthetic):
    conditions, pairs = cells(tree)
    assert len(conditions) == 9 * 4 and len(pairs) == 9 * 8, "nothing on the diagonal"
    status = tree["compatibility/status"].values
    for row in pairs:
        one, other = (int(row[key].split()[-1]) for key in ("technique", "other"))
        assert row["status"] == synthetic.STATUSES[status[one, other]] and row["sign"] == LOOKS[row["status"]][0]
    assert {row["status"] for row in pairs} == set(LOOKS)


def test_reasons_stand_at_both_cells_of_a_pair_and_are_spelled_out(tree):
    _, pairs = cells(tree)
    given = [row for row in pairs if row["reason"]]
    assert len(given) == 2 * len(json.loads(tree.attrs["reasons"]))
    assert all(row["reason"].startswith(row["status"]) and "⏎" in row["reason"] for row in given)


def test_techniques_of_one_slot_stand_together(tree):
    spec = figures.compatibility(tree).to_dict()
    order = spec["hconcat"][1]["layer"][0]["encoding"]["x"]["sort"]
    slots = [int(name.split()[-1]) % 3 for name in order]
    assert slots == sorted(slots, key=lambda slot: ("draft", "evict", "accept")[slot])


def test_what_was_left_out_is_said(synthetic):
    notes = " ".join(figures.compatibility(synthetic.compatibility(100)).to_dict()["title"]["subtitle"])
    assert f"The first {MOST} of 100 techniques are shown." in notes


def test_every_status_has_its_look_and_its_symbol():
    from workbench.studies.compatibility import STATUSES
    from workbench.studies.compatibility_file import SYMBOLS

    assert list(LOOKS) == list(STATUSES) == list(SYMBOLS)
    assert {name: sign for name, (sign, _) in LOOKS.items()} == SYMBOLS
