"""Devices by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from workbench.errors import SettingError


def device_named(name: str | torch.device, real: bool = True) -> torch.device:
    """The device of a name, as only the machine itself knows whether it is there, and which one "cuda" means.

    Parameters
    ----------
    name : str or torch.device
    real : bool
        Whether it must be one that holds numbers, as "meta" does not.

    Raises
    ------
    SettingError
        If there is none.
    """
    try:
        device = torch.empty(0, device=torch.device(name)).device
    except (RuntimeError, AssertionError, TypeError):
        device = None
    if device is None or (real and device.type == "meta"):
        raise SettingError(f"there is no device {str(name)!r:.80} here; there is: {', '.join(devices())}")
    return device


def devices() -> list[str]:
    """Names of the devices of this machine."""
    available = ["cpu", *(f"cuda:{place}" for place in range(torch.cuda.device_count()))]
    return available + ["mps"] * torch.backends.mps.is_available()


def numbers(values: Sequence[int], device: torch.device | str) -> Tensor:
    """int64 Tensor [values] on a device, for which the host does not wait: one, or a range, is made there, and others
    are copied from memory that the device reads by itself."""
    if len(values) == 1:
        return torch.full((1,), values[0], dtype=torch.long, device=device)
    if isinstance(values, range) and values.step == 1:
        return torch.arange(values.start, values.stop, device=device)
    return put(torch.tensor(list(values), dtype=torch.long), device)


def put(tensor: Tensor, device: torch.device | str) -> Tensor:
    """A host tensor on a device, for which the host does not wait: from memory that the device reads by itself."""
    if torch.device(device).type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def read(*tensors: Tensor) -> list[Any]:
    """Their numbers as lists, as ``tolist`` gives them: all in one copy to the host, which waits for a device once.

    Integers are exact up to 2**53.
    """
    if not all(each.device.type == "cuda" for each in tensors):
        return [each.tolist() for each in tensors]
    parts = torch.cat([each.reshape(-1).double() for each in tensors]).cpu().split([each.numel() for each in tensors])
    return [part.to(each.dtype).view(each.shape).tolist() for part, each in zip(parts, tensors)]


def wait(device: torch.device) -> None:
    """Wait for what a device still has to do, so that the clock may be read; not where it has nothing to do."""
    if device.type == "cuda" and not (stream := torch.cuda.current_stream(device)).query():
        stream.synchronize()
