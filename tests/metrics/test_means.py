"""Means and ratios of sums against scipy, and against what their intervals hold in simulated studies."""

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from workbench.metrics.means import mean_interval


def test_a_mean_has_student_s_interval():
    values = np.random.default_rng(0).normal(3, 1, 12)
    mean, low, high = mean_interval(values)
    want = ttest_1samp(values, 0).confidence_interval(0.95)
    assert (mean, low, high) == pytest.approx((values.mean(), want.low, want.high))


def test_a_ratio_is_of_sums_by_hand():
    parts, wholes = np.array([2.0, 6.0, 3.0, 8.0, 1.0]), np.array([1.0, 2.0, 1.0, 5.0, 1.0])
    mean, low, high = mean_interval(parts, wholes)
    assert mean == 2.0
    spread = np.sqrt((0 + 4 + 1 + 4 + 1) / 4) / 2  # residuals 0, 2, 1, -2, -1 over the mean whole of 2
    assert (low, high) == pytest.approx((2 - 2.7764 * spread / 5**0.5, 2 + 2.7764 * spread / 5**0.5), rel=1e-4)


def test_bounds_need_five_prompts_and_some_spread_and_stay_in_range():
    assert np.isnan(mean_interval(np.array([1.0, 2.0, 3.0, 4.0]))[1:]).all()
    assert mean_interval(np.array([1.0, 2.0, 3.0, 4.0]))[0] == 2.5
    assert np.isnan(mean_interval(np.full(8, 0.1))[1:]).all()
    mean, low, high = mean_interval(np.array([1.0, 1.0, 1.0, 1.0, 0.2]), least=0, most=1)
    assert 0 < low < mean < high == 1


def test_gaps_are_left_out_and_nothing_is_nan():
    gaps = np.array([1.0, 2.0, np.nan, 3.0, np.inf, 4.0, 5.0])
    assert mean_interval(gaps) == mean_interval(np.arange(1.0, 6.0))
    for values in (np.array([]), np.array([np.nan])):
        assert np.isnan(mean_interval(values)).all()
    assert np.isnan(mean_interval(np.array([0.0, 0.0]), np.array([0.0, 0.0]))).all()


@pytest.mark.parametrize("prompts", [5, 6, 10, 20, 40])
def test_intervals_of_accepted_tokens_hold_the_true_ratio(prompts):
    """Prompts with their own chance of acceptance and their own number of steps."""
    generator = np.random.default_rng(prompts)
    held, studies = 0, 1500
    for _ in range(studies):
        steps = generator.integers(8, 40, prompts)
        accepted = generator.poisson(steps * generator.gamma(4, 0.5, prompts))
        _, low, high = mean_interval(steps + accepted, steps)
        held += low <= 3 <= high
    assert held / studies >= 0.9
