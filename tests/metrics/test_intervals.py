"""Bootstrap intervals against the distribution they approximate, computed in full."""

import itertools

import numpy as np
import pytest

from workbench.metrics.intervals import Interval, bootstrap_median, resampled_medians


def every_median(values):
    """The medians of all equally likely resamples: prompts, and within each drawn prompt its repeats."""
    prompts, repeats = values.shape
    medians = []
    for drawn in itertools.product(range(prompts), repeat=prompts):
        choices = [itertools.product(values[prompt], repeat=repeats) for prompt in drawn]
        medians += [np.median(np.concatenate(chosen)) for chosen in itertools.product(*choices)]
    return np.array(medians)


VALUES = np.array([[1.0, 1.4], [2.0, 2.2], [0.7, 3.0]])


def test_resampled_medians_follow_the_exact_distribution():
    exact = every_median(VALUES)
    drawn = resampled_medians(VALUES, 20_000, np.random.default_rng(1))
    assert set(np.round(drawn, 9)) <= set(np.round(exact, 9))
    for level in np.arange(0.05, 1, 0.1):
        share = np.mean(exact <= np.quantile(exact, level))
        assert np.mean(drawn <= np.quantile(exact, level)) == pytest.approx(share, abs=0.015)


def test_the_interval_is_the_exact_one():
    # At this level both quantiles lie well inside a step of the discrete distribution.
    exact = every_median(VALUES)
    found = bootstrap_median(VALUES, level=0.8, samples=20_000)
    assert found == Interval(np.median(VALUES), np.quantile(exact, 0.1), np.quantile(exact, 0.9))


def test_repeats_of_one_prompt_stay_together():
    # All the variation is between prompts: a bootstrap that mixed all values would find a narrower interval.
    values = np.repeat(np.arange(9.0)[:, None], 50, 1)
    together, mixed = bootstrap_median(values), bootstrap_median(values.reshape(-1, 1))
    assert together.high - together.low >= 3 > mixed.high - mixed.low


def test_one_value_is_its_own_interval():
    assert bootstrap_median(np.array([[2.5]])) == Interval(2.5, 2.5, 2.5)


def test_nothing_measured_is_nan():
    for values in (np.full((2, 3), np.nan), np.zeros((0, 2))):
        found = bootstrap_median(values)
        assert np.isnan([found.median, found.low, found.high]).all()


def test_nan_is_left_out_and_never_drawn():
    ragged = np.array([[1.0, np.nan, 2.0], [np.nan, np.nan, np.nan], [5.0, 4.0, np.nan]])
    drawn = resampled_medians(ragged[[0, 2]], 500, np.random.default_rng(0))
    assert not np.isnan(drawn).any()
    assert set(drawn) <= {np.median(chosen) for chosen in itertools.product([1, 2, 4, 5], repeat=4)}
    assert bootstrap_median(ragged) == bootstrap_median(ragged[[0, 2]])
    assert bootstrap_median(ragged).median == 3.0


def test_low_median_and_high_are_in_order_whatever_comes():
    generator = np.random.default_rng(0)
    for _ in range(60):
        values = generator.lognormal(size=generator.integers(1, 5, size=2)) ** 3
        values[generator.random(values.shape) < 0.2] = np.nan
        found = bootstrap_median(values, samples=50, seed=int(generator.integers(9)))
        assert np.isnan(values).all() or found.low <= found.median <= found.high


def test_one_seed_one_interval_and_blocks_do_not_matter(monkeypatch):
    assert bootstrap_median(VALUES, seed=3) == bootstrap_median(VALUES, seed=3)
    assert bootstrap_median(VALUES, samples=40, seed=3) != bootstrap_median(VALUES, samples=40, seed=4)
    monkeypatch.setattr("workbench.metrics.intervals._AT_ONCE", 7)
    assert len(resampled_medians(VALUES, 33, np.random.default_rng(0))) == 33


def test_a_narrower_level_is_narrower():
    wide, narrow = bootstrap_median(VALUES, 0.95), bootstrap_median(VALUES, 0.5)
    assert wide.low <= narrow.low <= narrow.high <= wide.high
    assert wide.high - wide.low > narrow.high - narrow.low


def test_most_intervals_hold_the_true_median():
    # The percentile interval of a median is known to fall a little short of its level in small samples.
    generator = np.random.default_rng(5)
    held = 0
    for _ in range(200):
        found = bootstrap_median(generator.normal(10, 1, size=(40, 1)), samples=300)
        held += found.low <= 10 <= found.high
    assert 0.88 <= held / 200 <= 0.99
