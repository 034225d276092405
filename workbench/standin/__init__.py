"""A stand-in for an accelerator: tensors that say they are on ``cuda:0``, and are computed on the host.

Inside :func:`standin` everything that asks for ``cuda`` gets :class:`StandinTensor`: it refuses to be mixed with host
tensors as a GPU does, and :class:`Counts` says how often the host had to wait for the device. So the accelerator's way
through the engine, the techniques and the probes is walked on any machine.

What it does not prove: speed, and the Triton kernels, which cannot run on it; where they would, torch computes.
"""

from workbench.standin.counts import Counts
from workbench.standin.device import NAME, standin
from workbench.standin.tensor import StandinTensor

__all__ = ["NAME", "Counts", "StandinTensor", "standin"]
