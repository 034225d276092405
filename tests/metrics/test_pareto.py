"""The Pareto front."""

import numpy as np

from workbench.metrics.pareto import pareto_front


def test_it_holds_what_nobody_beats():
    quality = np.array([1.0, 0.9, 0.5, 0.4, 0.9])
    speed = np.array([1.0, 1.5, 2.0, 1.9, 1.2])
    assert pareto_front(quality, speed).tolist() == [True, True, True, False, False]


def test_it_is_the_definition():
    points = np.random.default_rng(0).integers(0, 6, size=(40, 2)).astype(float)
    front = pareto_front(points[:, 0], points[:, 1])
    for here, on in zip(points, front):
        beaten = any((other >= here).all() and (other > here).any() for other in points)
        assert on == (not beaten)


def test_equal_runs_stay_together_and_unknown_ones_are_out():
    assert pareto_front(np.array([1.0, 1.0, 0.0]), np.array([1.0, 1.0, 1.0])).tolist() == [True, True, False]
    assert pareto_front(np.array([np.nan, 1.0]), np.array([9.0, 1.0])).tolist() == [False, True]
    assert pareto_front(np.array([]), np.array([])).tolist() == []
