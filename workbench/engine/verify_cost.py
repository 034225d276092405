"""What a forward of n tokens costs: the number that decides how long a draft may be.

A forward of sixteen tokens reads the same weights as a forward of one, so on most hardware it costs little more; how
much more decides whether a guess pays. The curve is measured once for a model, dtype and number of threads, or modelled
from counted FLOPs and bytes on named hardware where a run must not depend on the clock.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from weakref import WeakKeyDictionary

import numpy as np
import torch

from workbench.cost.hardware import DATA_SHEETS, Hardware
from workbench.cost.roofline import step_seconds
from workbench.engine.decoder import Decoder
from workbench.engine.run import Run
from workbench.errors import SettingError
from workbench.models import Model
from workbench.models.anatomy import Anatomy
from workbench.models.device import wait

KINDS = ("measured", "modelled")
_CORES = Hardware(
    "two server cores",
    {"bfloat16": 0.8e12, "float16": 0.1e12, "float32": 0.35e12, "float64": 0.15e12},
    40e9,
    "what the compiled kernels reach on two cores of an EPYC with AVX-512, rounded",
)
_ROWS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
_HELD = 128
_KNOWN: WeakKeyDictionary[Anatomy, dict[tuple[str, int], VerifyCost]] = WeakKeyDictionary()


def modelled_on(device: torch.device) -> Hardware:
    """The hardware that a modelled cost is of: an A100, or two server cores for a model on the CPU."""
    return _CORES if device.type == "cpu" else DATA_SHEETS["A100 SXM 80GB"]


def steady(kind: str, run: Run) -> str:
    """The kind of cost that a run may decide by: ``modelled`` wherever it samples, or a technique acts between tokens.

    The draws that a step takes, and what such a technique sees, follow the shape of the step's draft, so the text would
    hang on the clock if the shape did. Any other greedy text does not depend on what was drafted.
    """
    return kind if run.sampler.greedy and not run.stepwise else "modelled"


class VerifyCost:
    """Seconds of a forward by its number of tokens.

    Parameters
    ----------
    rows : sequence of int
        Increasing, from 1.
    seconds : sequence of float
        For each of them; made non-decreasing, since a wait in between is noise.
    """

    def __init__(self, rows: Sequence[int], seconds: Sequence[float]) -> None:
        self._rows = np.asarray(rows, dtype=float)
        # A cheap large pass says that a smaller one need not cost more.
        self._seconds = np.minimum.accumulate(np.asarray(seconds, dtype=float)[::-1])[::-1]

    def __repr__(self) -> str:
        most = int(self._rows[-1])
        return f"<VerifyCost: {1e3 * self(1):.3g} ms for a token, {self.ratio(most):.3g} times as much for {most}>"

    def __call__(self, rows: int) -> float:
        """Seconds of a forward of ``rows`` tokens; beyond the last known number in proportion."""
        if rows > self._rows[-1]:
            return float(self._seconds[-1] * rows / self._rows[-1])
        return float(np.interp(rows, self._rows, self._seconds))

    def ratio(self, rows: int) -> float:
        """Cost of ``rows`` tokens over that of one."""
        return self(rows) / self(1)


def verify_cost(model: Model, kind: str = "measured") -> VerifyCost:
    """The cost curve of a model.

    Parameters
    ----------
    model : Model
    kind : {"measured", "modelled"}
        ``measured`` times forwards here (about a second for 100 million parameters, then remembered); ``modelled``
        takes counted FLOPs and bytes on the roofline of :func:`modelled_on`, and is the same everywhere.

    Raises
    ------
    SettingError
        If the kind is not known.
    """
    if kind not in KINDS:
        raise SettingError(f"a verify cost is one of {', '.join(KINDS)}, not {kind!r}")
    known = _KNOWN.setdefault(model.anatomy, {})
    key = kind, torch.get_num_threads()
    if key not in known:
        # A model with few positions cannot be asked for more.
        sizes = [rows for rows in _ROWS if rows < model.anatomy.positions]
        known[key] = VerifyCost(sizes, _seconds(model, sizes, repeats=4 if kind == "measured" else 0))
    return known[key]


def assume(model: Model, cost: VerifyCost) -> None:
    """From now on take ``cost`` for the model's, measured or modelled: what a draft is worth on other hardware."""
    for kind in KINDS:
        _KNOWN.setdefault(model.anatomy, {})[kind, torch.get_num_threads()] = cost


def _seconds(model: Model, sizes: Sequence[int], repeats: int) -> list[float]:
    """Of every size the best of ``repeats`` timings; without repeats what its counts would take."""
    decoder = Decoder(model, reserve=sizes[-1])
    held = min(_HELD, model.anatomy.positions - sizes[-1])
    decoder.prefill([0] * held)
    dtype = str(model.dtype).removeprefix("torch.")
    best = dict.fromkeys(sizes, float("inf"))
    # Round by round rather than size by size, so that a busy moment hits all alike.
    for _ in range(max(1, repeats)):
        for rows in sizes:
            decoder.reset_counts()
            start = time.perf_counter()
            decoder.forward([0] * rows, logits="all")
            wait(model.device)
            took = time.perf_counter() - start
            if not repeats:
                took = float(step_seconds(decoder.flops, decoder.bytes, modelled_on(model.device), dtype))
            best[rows] = min(best[rows], took)
            decoder.cache.commit(rows, ())
    return [best[rows] for rows in sizes]
