"""Intervals of a median against binomial probabilities, and against what they hold in simulated studies."""

import itertools

import numpy as np
import pytest
from scipy.stats import binom

from workbench.metrics.intervals import Interval, median_interval, order_statistic_level


def column(values):
    return np.asarray(values, dtype=float)[:, None]


def nested(generator, studies, prompts, repeats, spread, noise, draw):
    """Ratios (study, prompt, repeat): a skewed true ratio for each prompt, and skewed noise in each repeat."""
    true = draw(generator, spread, (studies, prompts, 1))
    return true * generator.lognormal(0, noise, (studies, prompts, repeats))


def lognormal(generator, spread, shape):
    """Median 1, a long tail to the right."""
    return generator.lognormal(0, spread, shape)


def mixed(generator, spread, shape):
    """Median 1: most prompts gain little, a third gain up to tenfold, as copying does."""
    below = generator.uniform(1 - spread, 1, shape)
    above = np.where(
        generator.random(shape) < 2 / 3, generator.lognormal(2, 0.4, shape), generator.uniform(1, 1.2, shape)
    )
    return np.where(generator.random(shape) < 0.5, below, np.maximum(above, 1))


@pytest.mark.parametrize("draw", [lognormal, mixed])
@pytest.mark.parametrize(("prompts", "repeats"), [(5, 1), (5, 3), (6, 2), (8, 2), (12, 1), (17, 3), (25, 2), (40, 2)])
def test_intervals_hold_the_true_median_as_often_as_they_say(prompts, repeats, draw):
    generator = np.random.default_rng([prompts, repeats])
    studies = nested(generator, 1500, prompts, repeats, 0.8, 0.1, draw)
    found = [median_interval(study) for study in studies]
    held = np.mean([each.low <= 1 <= each.high for each in found])
    error = np.sqrt(found[0].level * (1 - found[0].level) / len(studies))
    assert held >= 0.93 - error
    # Noise in the repeats moves the median of a distribution with a kink a little, that of a smooth one hardly.
    assert held >= found[0].level - 4 * error - 0.01


@pytest.mark.parametrize("n", range(5, 60))
def test_the_level_is_the_binomial_one_and_the_ranks_are_the_narrowest_that_reach_it(n):
    found = median_interval(column(np.arange(1, n + 1)))
    rank = int(found.low)
    assert found.high == n + 1 - rank and found.n == found.of == n
    assert found.level == order_statistic_level(n, rank) == pytest.approx(1 - 2 * binom.cdf(rank - 1, n, 0.5))
    assert found.level >= 0.95 or n == 5
    assert order_statistic_level(n, rank + 1) < 0.95


def test_by_hand():
    five = median_interval(column([3.0, 1.0, 2.0, 9.0, 4.0]))
    assert five == Interval(3.0, 1.0, 9.0, 5, 5, 0.9375)
    nine = median_interval(column(range(9)))
    assert nine == Interval(4.0, 1.0, 7.0, 9, 9, 1 - 20 / 512)
    assert median_interval(column(range(9)), 0.8) == Interval(4.0, 2.0, 6.0, 9, 9, 1 - 92 / 512)


@pytest.mark.parametrize("n", range(1, 5))
def test_few_prompts_have_a_median_and_no_bounds_however_many_repeats(n):
    found = median_interval(np.random.default_rng(0).lognormal(size=(n, 50)))
    assert found.n == n and found.median > 0 and not found.bounded
    assert np.isnan([found.low, found.high, found.level]).all()


def test_repeats_of_one_prompt_are_one_value():
    values = np.array([[1.0, 1.2, 9.0], [2.0, 2.0, 2.0], [0.5, 3.0, 3.0], [4.0, 4.0, 5.0], [7.0, 6.0, 7.0], [8, 8, 0]])
    assert median_interval(values) == median_interval(column([1.2, 2.0, 3.0, 4.0, 7.0, 8.0]))


def test_equal_values_have_no_interval_of_no_width():
    assert not median_interval(np.ones((9, 2))).bounded
    assert not median_interval(column([0, 1, 1, 1, 1, 1, 1, 1, 2])).bounded


def test_nothing_measured_is_nan():
    for values in (np.full((2, 3), np.nan), np.zeros((0, 2))):
        found = median_interval(values)
        assert np.isnan([found.median, found.low, found.high]).all()
        assert (found.n, found.of) == (0, len(values))


def test_nan_is_left_out_and_counted():
    ragged = np.array([[1.0, np.nan, 2.0], [np.nan] * 3, [5.0, 4.0, np.nan], [3.0] * 3, [6.0] * 3, [0.5] * 3])
    found = median_interval(ragged)
    assert (found.n, found.of, found.low, found.median, found.high) == (5, 6, 0.5, 3.0, 6.0)


def test_low_median_and_high_are_in_order_whatever_comes():
    generator = np.random.default_rng(0)
    for prompts, repeats in itertools.product(range(1, 14), range(1, 4)):
        values = generator.lognormal(size=(prompts, repeats)) ** 3
        values[generator.random(values.shape) < 0.2] = np.nan
        found = median_interval(values)
        assert not found.bounded or found.low <= found.median <= found.high


def test_a_narrower_level_is_narrower():
    values = column(np.random.default_rng(1).lognormal(size=30))
    wide, narrow = median_interval(values, 0.95), median_interval(values, 0.5)
    assert wide.low < narrow.low <= narrow.high < wide.high
