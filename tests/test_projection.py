"""What the tests will take is worked out from what they take."""

import pytest
from projection import owner, parts, projected, scaled, table

SLOTS = {"snap_kv": "evict", "streaming_llm": "evict", "goodput": "draft_length"}
RECORD = {
    "wall": 100.0,
    "workers": 2,
    "cpu": 60.0,
    "tests": {
        "tests/techniques/evict/test_snap_kv.py::test_a": {"cpu": 4.0},
        "tests/techniques/evict/streaming_llm/test_sinks.py::test_a": {"cpu": 6.0},
        "tests/test_contract.py::test_a[goodput-0-llama]": {"cpu": 3.0},
        "tests/test_contract_pairs.py::test_a[goodput-snap_kv-llama]": {"cpu": 7.0},
        "tests/engine/test_loop.py::test_a[llama]": {"cpu": 20.0},
    },
}


@pytest.mark.parametrize(
    ("nodeid", "name"),
    [
        ("tests/techniques/evict/test_snap_kv.py::test_a", "snap_kv"),
        ("tests/techniques/evict/streaming_llm/test_sinks.py::test_a[goodput]", "streaming_llm"),
        ("tests/techniques/draft/test_shared.py::test_a", None),
        ("tests/test_contract_pairs.py::test_a[goodput-snap_kv-llama]", "goodput"),
        ("tests/x.py::test_a[('snap_kv', 1)]", "snap_kv"),
        ("tests/x.py::test_snap_kv_is_small", None),
        ("tests/x.py::test_a[snap_kv_and_more]", None),
    ],
)
def test_a_test_belongs_to_the_technique_that_it_is_there_for(nodeid, name):
    assert owner(nodeid, set(SLOTS)) == name


def test_seconds_are_parted_by_what_they_grow_with():
    assert parts(RECORD, SLOTS) == {
        "own": {"evict": 10.0, "draft_length": 3.0},
        "pairs": {"draft_length": 7.0},
        "fixed": {"": 20.0},
        "outside": {"": 20.0},
    }


def test_the_projection_is_todays_run_today_and_grows_in_proportion():
    today = scaled(SLOTS, 3)
    assert today == {"evict": 2.0, "draft_length": 1.0}
    assert projected(RECORD, SLOTS, today, filled=2) == pytest.approx(RECORD["cpu"])
    # Ten times the techniques, and twice the slots to meet partners in; what is in no test grows along.
    tests = 20 + 10 * 13 + 10 * 7 * 2
    assert projected(RECORD, SLOTS, scaled(SLOTS, 30), filled=4) == pytest.approx(tests + 20 * tests / 40)
    assert projected(RECORD, SLOTS, {**today, "store": 1}, filled=2) == pytest.approx(45 * 1.5), "as those of evict"


def test_the_table_has_todays_parts_and_the_minutes_to_come():
    lines = table(RECORD, SLOTS, [30], filled=4, used=0.5)
    assert "| evict | 10 | 2 | 5.0 |" in lines and "| draft_length | 10 | 1 | 10.0 |" in lines
    assert lines[-1] == f"| 30 | {290 * 1.5:.0f} | {290 * 1.5 / 60:.0f} |"
