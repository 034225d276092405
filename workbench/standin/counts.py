"""How often the host waited for the device, and where."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

_OWN = str(Path(__file__).parent)
_OURS = ("workbench", "workbench_kernels", "workbench_app")


class Counts:
    """What passed between host and device.

    Attributes
    ----------
    waits : Counter
        Kind -> how often the host waited: ``item`` (a number was read), ``copy`` (a tensor was), ``size`` (a shape that
        hangs on the data, as of a boolean mask), ``equal`` and ``synchronize``.
    places : Counter
        (file and line of ours, kind) -> how often.
    uploads : int
        Copies from host to device that the host also waits for, as they are made from pageable memory: of tensors made
        of lists, of lists as indices. They are counted apart, since a page-locked copy takes their place.
    """

    def __init__(self) -> None:
        self.reset()

    def __repr__(self) -> str:
        return f"<Counts: {self.synchronisations} synchronisations {dict(self.waits)}, {self.uploads} uploads>"

    def reset(self) -> None:
        """Begin anew."""
        self.waits: Counter[str] = Counter()
        self.places: Counter[tuple[str, str]] = Counter()
        self.uploads = 0

    @property
    def synchronisations(self) -> int:
        """How often the host waited, of whatever kind."""
        return sum(self.waits.values())

    def wait(self, kind: str, times: int = 1) -> None:
        """The host waits for the device."""
        self.waits[kind] += times
        self.places[_place(), kind] += times

    def upload(self, times: int = 1) -> None:
        """Something goes from host to device."""
        self.uploads += times
        self.places[_place(), "upload"] += times


def _place() -> str:
    """File and line of the innermost of our own frames outside this package."""
    frame = sys._getframe(1)
    while frame is not None:
        package, file = frame.f_globals.get("__name__", "").partition(".")[0], frame.f_code.co_filename
        if package in _OURS and not file.startswith(_OWN):
            return f"{frame.f_globals['__name__']}:{frame.f_lineno}"
        frame = frame.f_back
    return "elsewhere"
