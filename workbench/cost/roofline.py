"""Seconds that counted operations and bytes would take on named hardware: modelled, never mixed with measured ones.

Source
------
Williams, Waterman, Patterson, Roofline: An Insightful Visual Performance Model for Multicore Architectures, 2009. A
step takes as long as the slower of its arithmetic at peak and its memory traffic at full bandwidth. Launch overhead,
communication and what a kernel leaves unused are not in it: it is a lower bound, and best read as a ratio.
"""

from __future__ import annotations

import numpy as np

from workbench.cost.hardware import Hardware

Counted = np.ndarray | float


def step_seconds(flops: Counted, bytes: Counted, hardware: Hardware, dtype: str) -> np.ndarray:
    """Modelled seconds of every step.

    Parameters
    ----------
    flops, bytes : array [...]
        Counted in each step; NaN stays NaN.
    hardware : Hardware
    dtype : str
        Decides the peak.
    """
    arithmetic = np.asarray(flops, dtype=np.float64) / hardware.peak(dtype)
    return np.maximum(arithmetic, np.asarray(bytes, dtype=np.float64) / hardware.bandwidth)


def run_seconds(flops: Counted, bytes: Counted, hardware: Hardware, dtype: str) -> float:
    """Modelled seconds of a run: its steps one after the other; NaN steps (padding) count nothing."""
    return float(np.nansum(step_seconds(flops, bytes, hardware, dtype)))
