"""Kullback-Leibler divergence against its formula and scipy's."""

import numpy as np
import pytest
from scipy.special import log_softmax as reference_log_softmax
from scipy.stats import entropy

from workbench.metrics import kl_divergence, log_softmax


def logits(seed, rows=5, vocabulary=40):
    return np.random.default_rng(seed).normal(0, 4, size=(rows, vocabulary)).astype(np.float32)


def test_it_is_the_sum_of_p_log_p_over_q():
    p, q = (np.exp(reference_log_softmax(logits(seed).astype(float), -1)) for seed in (0, 1))
    assert kl_divergence(logits(0), logits(1)) == pytest.approx(entropy(p, q, axis=-1), rel=1e-9)
    assert log_softmax(logits(0)) == pytest.approx(reference_log_softmax(logits(0).astype(float), -1), rel=1e-12)


def test_by_hand_and_in_this_direction():
    half, quarter = np.log([0.5, 0.5]), np.log([0.25, 0.75])
    assert kl_divergence(half, quarter) == pytest.approx(0.5 * np.log(2) + 0.5 * np.log(2 / 3))
    assert kl_divergence(quarter, half) == pytest.approx(0.25 * np.log(0.5) + 0.75 * np.log(1.5))


def test_equal_distributions_do_not_diverge_whatever_their_level():
    assert (kl_divergence(logits(0), logits(0)) == 0).all()
    assert kl_divergence(logits(0), logits(0) + 700) == pytest.approx(np.zeros(5), abs=1e-9)
    assert (kl_divergence(logits(0), logits(0) + 1e-4) >= 0).all()


def test_tokens_that_are_ruled_out():
    p, q = np.array([0.0, 1.0, -np.inf]), np.array([0.0, 1.0, 2.0])
    assert np.isfinite(kl_divergence(p, q))
    assert kl_divergence(q, p) == np.inf
    assert kl_divergence(p, p) == 0
