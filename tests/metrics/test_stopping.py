"""Which prompts a run stopped early on, and which runs may be compared on their speed."""

import numpy as np

from workbench.metrics import covers, stopped_early

NAN = float("nan")


def test_half_of_the_baseline_s_decoded_tokens_is_enough():
    baseline = np.array([32, 32, 32, 32, 1, 2, 32, NAN])
    written = np.array([1, 16, 17, 64, 1, 1, NAN, 9])
    assert stopped_early(written, baseline).tolist() == [True, True, False, False, False, True, False, False]


def test_a_run_covers_the_baseline_s_prompts_or_is_out():
    baseline = np.full(20, 32.0)
    missed = [0, 2, 3]
    stopped = np.stack([np.where(np.arange(20) < count, 1, 32.0) for count in missed])
    unreached = np.where(stopped == 1, NAN, stopped)
    for written in (stopped, unreached):
        assert covers(written, baseline).tolist() == [True, True, False]
    assert covers(np.array([[32.0] * 5, [1.0] + [32.0] * 4]), np.full(5, 32.0)).tolist() == [True, False]


def test_a_run_that_decodes_little_everywhere_is_out_and_one_short_answer_is_not():
    baseline = np.full(6, 32.0)
    short = [[2.0] * 6, [2.0] * 5 + [32.0], [14.0] + [32.0] * 5, [16.0] * 6, [17.0] * 6]
    assert covers(np.array(short), baseline).tolist() == [False, False, True, False, True]


def test_prompts_on_which_the_baseline_decoded_nothing_do_not_count():
    baseline = np.array([1.0, 1.0, 32.0, NAN])
    assert covers(np.array([[1.0, NAN, 32.0, NAN]]), baseline).tolist() == [True]
