"""The number of prompts that is asked for does what it is asked for."""

import numpy as np
import pytest

from workbench.metrics import measured, median_interval, prompts_needed
from workbench.metrics.sample_size import spell_count


def spread_of(deviation, prompts=7):
    """Logarithms with just this standard deviation and median 0."""
    logs = np.linspace(-1, 1, prompts)
    return deviation * logs / np.std(logs, ddof=1)


@pytest.mark.parametrize(("gain", "deviation"), [(1.3, 0.3), (0.8, 0.25), (2.0, 0.6)])
def test_so_many_prompts_leave_out_1_as_often_as_was_asked(gain, deviation):
    count = int(prompts_needed(gain * np.exp(spread_of(deviation))[:, None]))
    generator = np.random.default_rng(count)
    studies = gain * generator.lognormal(0, deviation, (600, count, 1))
    found = [median_interval(study) for study in studies]
    assert 0.7 <= np.mean([not each.low <= 1 <= each.high for each in found]) <= 0.9


def test_so_many_prompts_have_that_half_width():
    count = int(prompts_needed(np.exp(spread_of(0.3))[:, None], within=0.1))
    studies = np.random.default_rng(0).lognormal(0, 0.3, (300, count, 1))
    widths = [np.log(each.high / each.low) / 2 for each in map(median_interval, studies)]
    # Ranks are whole, and the interval holds 95 % at least: it is a little wider than the formula's.
    assert np.mean(widths) == pytest.approx(np.log(1.1), rel=0.2)


def test_repeats_count_once_and_nothing_is_promised_from_little():
    ratios = 1.3 * np.exp(spread_of(0.3))[:, None]
    assert prompts_needed(np.repeat(ratios, 4, 1)) == prompts_needed(ratios)
    assert prompts_needed(np.array([[1.0001], [1.5], [2.0]]), within=9.0) == 6
    assert np.isnan(prompts_needed(np.array([[1.2], [1.3], [np.nan]])))
    assert np.isnan(prompts_needed(np.zeros((0, 2))))
    assert np.isnan(prompts_needed(np.ones((9, 2)))) and np.isnan(prompts_needed(np.ones((9, 2)), within=0.1))
    assert [spell_count(each) for each in (np.nan, np.inf, 14.0)] == ["", "more than 10,000", "14"]
    assert prompts_needed(np.array([[0.5], [1.0], [2.0]])) == np.inf


@pytest.mark.parametrize("bad", [0.0, -1.0, np.inf, np.nan])
def test_a_ratio_that_is_none_is_left_out(bad):
    good = np.array([[1.1], [1.3], [0.9], [1.2]])
    for within in (None, 0.05):
        assert prompts_needed(np.vstack([good, [[bad]]]), within) == prompts_needed(good, within)
    assert np.isnan(prompts_needed(np.full((4, 2), bad)))


def test_only_positive_finite_numbers_are_measured():
    found = measured(np.array([[1.0, 0.0, -1.0], [np.inf, np.nan, 1e-9]]))
    assert np.isnan(found).tolist() == [[False, True, True], [True, True, False]] and found[1, 2] == 1e-9
