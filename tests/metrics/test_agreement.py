"""Top-1 agreement."""

import numpy as np

from workbench.metrics import top1_agreement


def test_it_is_the_share_of_equal_best_tokens():
    reference = np.array([[0, 3, 1], [5, 0, 0], [1, 2, 9], [1, 0, 0]])
    other = np.array([[9, 10, 9], [0, 1, 0], [1, 2, 3], [0, 0, 1]])
    assert top1_agreement(reference, other) == 0.5
    assert top1_agreement(reference, reference) == 1.0


def test_a_tie_goes_to_the_first_token_as_in_greedy_decoding():
    assert top1_agreement(np.array([[2.0, 2.0, 1.0]]), np.array([[1.0, 0.0, 0.0]])) == 1.0
    assert top1_agreement(np.array([[2.0, 2.0, 1.0]]), np.array([[0.0, 1.0, 0.0]])) == 0.0
