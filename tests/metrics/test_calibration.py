"""Calibration against the sum over every token, written out, and against scipy's intervals."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from workbench.metrics import calibration_error, reliability


def slow_error(chances, hits, bins):
    """sum over bins of n / N |share right - mean confidence|, bin by bin, token by token."""
    total = 0.0
    for low in range(bins):
        here = [
            (chance, hit)
            for chance, hit in zip(chances, hits)
            if low / bins <= chance < (low + 1) / bins or (chance == 1 and low == bins - 1)
        ]
        if here:
            share, mean = sum(hit for _, hit in here) / len(here), sum(chance for chance, _ in here) / len(here)
            total += len(here) / len(chances) * abs(share - mean)
    return total


@pytest.mark.parametrize("bins", [1, 4, 10])
@pytest.mark.parametrize("tokens", [1, 7, 500])
def test_the_error_is_the_sum_over_bins(tokens, bins):
    generator = np.random.default_rng(tokens)
    chances, hits = generator.random(tokens), generator.random(tokens) < 0.4
    chances[0] = 1.0
    assert calibration_error(chances, hits, bins) == pytest.approx(slow_error(chances.tolist(), hits.tolist(), bins))
    assert 0 < calibration_error(chances, hits, bins) <= 1


def test_who_is_right_as_often_as_it_is_sure_has_none_and_who_is_always_sure_its_mistakes():
    chances = np.repeat([0.25, 0.75], 400)
    hits = np.concatenate([np.arange(400) % 4 == 0, np.arange(400) % 4 != 0])
    assert calibration_error(chances, hits) == pytest.approx(0)
    assert calibration_error(np.ones(10), np.arange(10) < 7) == pytest.approx(0.3)
    assert math.isnan(calibration_error(np.zeros(0), np.zeros(0, dtype=bool)))


def test_bins_hold_all_tokens_and_their_intervals_are_wilson_s():
    generator = np.random.default_rng(3)
    chances, hits = generator.random((20, 30)) ** 2, generator.random((20, 30)) < 0.5
    found = reliability(chances, hits, 5)
    assert found.count.sum() == 600
    for bin in range(5):
        here = (chances * 5).astype(int) == bin
        assert found.count[bin] == here.sum() and found.confidence[bin] == pytest.approx(chances[here].mean())
        want = binomtest(int(hits[here].sum()), int(here.sum())).proportion_ci(method="wilson")
        assert (found.low[bin], found.high[bin]) == pytest.approx((want.low, want.high), abs=1e-6)
    empty = reliability(np.array([0.05]), np.array([True]))
    assert empty.count.tolist() == [1] + [0] * 9 and np.isnan(empty.share[1:]).all()
