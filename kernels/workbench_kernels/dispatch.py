"""Which implementation of an op runs, decided in one place and always said aloud.

Every op offers some of four backends: ``triton`` (the kernel), ``native`` (C++, compiled for this processor), ``torch``
(the fast path in plain torch) and ``reference`` (the obvious twin, slow). An op calls `choose_backend` and returns the
name it got with its result, so that no caller has to guess which one it timed.
"""

import contextlib
import importlib.util
import os
from collections.abc import Iterator

import torch

_TAKEN_AWAY: dict[str, str] = {}


class BackendUnavailable(RuntimeError):
    """A backend was asked for by name and cannot run here; the text says why and which ones can."""


def interpreting() -> bool:
    """Whether Triton kernels run in Triton's interpreter (``TRITON_INTERPRET=1``), on the CPU and slowly."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in {"1", "true", "on", "yes", "y"}


def _why_not(backend: str, device: torch.device) -> str | None:
    """The reason why `backend` cannot run on tensors of `device`, or None when it can."""
    if backend in _TAKEN_AWAY:
        return _TAKEN_AWAY[backend]
    if backend == "native" and device.type != "cpu":
        return f"the tensors are on {device.type}, and it is made for the CPU"
    if backend != "triton":
        return None
    if importlib.util.find_spec("triton") is None:
        return "the package triton is not installed"
    if device.type != "cuda" and not interpreting():
        return f"the tensors are on {device.type}, and Triton needs cuda or TRITON_INTERPRET=1"
    return None


@contextlib.contextmanager
def without(backend: str, reason: str) -> Iterator[None]:
    """Let a backend be none that can run here, for a device that only says that it is one."""
    earlier = dict(_TAKEN_AWAY)
    _TAKEN_AWAY[backend] = reason
    try:
        yield
    finally:
        _TAKEN_AWAY.clear()
        _TAKEN_AWAY.update(earlier)


def choose_backend(
    asked: str | None, device: torch.device, offered: tuple[str, ...] = ("triton", "torch", "reference")
) -> str:
    """Name the backend that will run.

    Parameters
    ----------
    asked : str or None
        A backend by name, or None for the fastest that fits: ``triton`` on a CUDA or ROCm device where the package
        is installed, otherwise ``torch``. The interpreter is never chosen unasked.
    device : torch.device
        Where the op's tensors are.
    offered : tuple of str
        What the op has.

    Raises
    ------
    BackendUnavailable
        If `asked` is not among `offered`, or cannot run on `device`.
    """
    if asked is None:
        fast = "triton" in offered and device.type == "cuda" and _why_not("triton", device) is None
        return "triton" if fast else "torch"
    able = [name for name in offered if _why_not(name, device) is None]
    if asked not in offered:
        raise BackendUnavailable(f"There is no backend {asked!r}; here one can ask for {', '.join(able)}.")
    reason = _why_not(asked, device)
    if reason is not None:
        raise BackendUnavailable(f"Backend {asked!r} cannot run: {reason}. Here one can ask for {', '.join(able)}.")
    return asked
