"""What is learned of acceptance, against plain averages."""

import pytest

from workbench.engine import Draft
from workbench.techniques.draft_length._acceptance_rate import CalibratedRate, MovingRate


def test_a_level_is_kept_if_any_of_its_nodes_is():
    """A tree of two siblings and a child: a node's chance is a half of its level's."""
    rate, tree = CalibratedRate(), Draft([1, 2, 3], [-1, -1, 1])
    for _ in range(400):
        rate.saw(tree, [1])
    assert rate.of_level(1) > 0.9 and rate.of(1, None) == pytest.approx(0.5, abs=0.1)
    assert rate.of_level(2) < 0.2 and rate.of(2, None) < 0.2


def test_a_level_below_a_rejection_says_nothing():
    rate = CalibratedRate()
    for _ in range(50):
        rate.saw(Draft([1, 2]), [])
    assert rate.of_level(1) < 0.2 and rate.of_level(2) == pytest.approx(0.7)


def test_the_moving_rate_is_one_for_every_depth():
    rate = MovingRate()
    rate.saw(Draft(), [])
    assert rate.of_level(1) == 0.7
    rate.saw(Draft([1, 2, 3, 4]), [0])
    assert rate.of_level(1) == rate.of_level(7) == pytest.approx(0.9 * 0.7 + 0.1 * 0.25)
