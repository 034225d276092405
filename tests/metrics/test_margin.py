"""The lead of the best token."""

import numpy as np
import pytest

from workbench.metrics import margin


def test_it_is_the_difference_of_the_two_largest():
    logits = np.random.default_rng(0).normal(size=(3, 7, 50))
    ordered = np.sort(logits, -1)
    assert margin(logits) == pytest.approx(ordered[..., -1] - ordered[..., -2])


def test_a_tie_has_none_and_a_level_does_not_matter():
    assert margin(np.array([4.0, 1.0, 4.0])) == 0
    assert margin(np.array([-1.0, -3.5])) == 2.5
