"""Perplexity of a given text."""

import numpy as np
import pytest
import torch

from workbench.metrics import perplexity


def test_it_is_the_exponential_of_the_cross_entropy():
    logits = np.random.default_rng(0).normal(0, 3, size=(11, 30)).astype(np.float32)
    tokens = np.random.default_rng(1).integers(30, size=11)
    expected = torch.nn.functional.cross_entropy(torch.tensor(logits, dtype=torch.float64), torch.tensor(tokens)).exp()
    assert perplexity(logits, tokens) == pytest.approx(float(expected), rel=1e-9)


def test_no_knowledge_is_the_size_of_the_vocabulary():
    assert perplexity(np.zeros((4, 25)), np.array([0, 3, 24, 7])) == pytest.approx(25)
    assert perplexity(np.array([[500.0, 0.0]]), np.array([0])) == pytest.approx(1)
