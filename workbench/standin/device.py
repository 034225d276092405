"""A machine that has the device: what torch says of it, and how what is asked of torch gets there."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from workbench.standin.operations import Device
from workbench.standin.tensor import DEVICES, StandinTensor
from workbench_kernels import dispatch

NAME = "stand-in"
MEMORY = 80 * 2**30  # bytes that it says it has

_CUDA = torch.device("cuda", 0)
# Methods that want a device guard, which a build without accelerators does not have, and what they come to.
_GUARDED = {
    Tensor.copy_: torch.ops.aten.copy_.default,
    Tensor.contiguous: torch.ops.aten.contiguous.default,
    Tensor.nonzero: torch.ops.aten.nonzero.default,
    torch.nonzero: torch.ops.aten.nonzero.default,
    Tensor.__invert__: torch.ops.aten.bitwise_not.default,
}


class _Stream:
    """The one queue of the device."""

    def __init__(self, device: Device) -> None:
        self._device = device

    def query(self) -> bool:
        """Whether nothing is left to do."""
        return not self._device.busy

    def synchronize(self) -> None:
        self._device.wait("synchronize")


class _Operations(TorchDispatchMode):
    def __init__(self, device: Device) -> None:
        super().__init__()
        self._device = device

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self._device.run(func, args, kwargs or {})


class _Made(TorchFunctionMode):
    """Where torch looks for a device that is not there before it tells anybody: when it makes tensors of lists, and
    when it is asked for "cuda" without a number."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (Tensor.to, Tensor.cuda):
            return _moved(func, args, kwargs)
        if func in _GUARDED and any(isinstance(each, StandinTensor) for each in args):
            return _GUARDED[func](*args, **kwargs)
        if func is Tensor.pin_memory:
            return args[0]  # nothing reads it by itself here
        if func not in (torch.tensor, torch.as_tensor, Tensor.new_tensor):
            return func(*args, **kwargs)
        if func is Tensor.new_tensor:
            first, *args = args
            kwargs = {"dtype": first.dtype, "device": first.device, **kwargs}
        made = torch.as_tensor if func is torch.as_tensor else torch.tensor
        kwargs = {key: each for key, each in kwargs.items() if key != "pin_memory"}  # nothing reads it by itself here
        if not _is_cuda(kwargs.pop("device", None)):
            return made(*args, **kwargs)
        made = made(*args, **kwargs)
        return made if isinstance(made, StandinTensor) else made.to(_CUDA)


def _moved(func: Any, args: Any, kwargs: dict[str, Any]) -> Tensor:
    if func is Tensor.cuda:
        return args[0].to(_CUDA)
    args = [_CUDA if isinstance(each, str | torch.device) and _is_cuda(each) else each for each in args]
    if _is_cuda(kwargs.get("device")):
        kwargs = {**kwargs, "device": _CUDA}
    return func(*args, **kwargs)


def _is_cuda(device: Any) -> bool:
    return device is not None and torch.device(device).type == "cuda"


@contextlib.contextmanager
def standin() -> Iterator[Device]:
    """A machine with one accelerator, named :data:`NAME`, in this thread and those that it starts.

    Yields
    ------
    Device
        Its ``counts`` are those of all of them.
    """
    device, run = Device(), threading.Thread.run

    @contextlib.contextmanager
    def modes() -> Iterator[None]:
        with _Made(), _Operations(device):
            yield

    def started(thread: threading.Thread) -> None:
        with modes():
            run(thread)

    said = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_capability": lambda *_: (8, 0),
        "get_device_name": lambda *_: NAME,
        "mem_get_info": lambda *_: (MEMORY, MEMORY),
        "synchronize": lambda *_: device.wait("synchronize"),
        "current_stream": lambda *_: _Stream(device),
        "_lazy_init": lambda: None,
    }
    with contextlib.ExitStack() as stack:
        for name, function in said.items():
            stack.callback(setattr, torch.cuda, name, getattr(torch.cuda, name))
            setattr(torch.cuda, name, function)
        stack.callback(setattr, threading.Thread, "run", run)
        threading.Thread.run = started
        stack.enter_context(dispatch.without("triton", f"it cannot run on the {NAME}"))
        DEVICES.append(device)
        stack.callback(DEVICES.remove, device)
        stack.enter_context(modes())
        yield device
