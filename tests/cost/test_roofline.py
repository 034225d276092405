"""Modelled seconds."""

import numpy as np
import pytest

from workbench.cost.hardware import Hardware
from workbench.cost.roofline import run_seconds, step_seconds

MACHINE = Hardware("mine", {"float32": 100.0, "bfloat16": 200.0}, 10.0, "made up")


def test_a_step_takes_the_slower_of_arithmetic_and_memory():
    flops, moved = np.array([100.0, 1000.0, 0.0]), np.array([50.0, 20.0, 0.0])
    assert step_seconds(flops, moved, MACHINE, "float32").tolist() == [5.0, 10.0, 0.0]
    assert step_seconds(flops, moved, MACHINE, "bfloat16").tolist() == [5.0, 5.0, 0.0]


def test_a_run_is_its_steps_one_after_the_other():
    flops, moved = np.array([100.0, 1000.0, np.nan]), np.array([50.0, 20.0, np.nan])
    assert run_seconds(flops, moved, MACHINE, "float32") == pytest.approx(15.0)
    # Not the roofline of the sums, which would let one step's arithmetic hide behind another's memory.
    assert max(1100 / 100, 70 / 10) < 15
