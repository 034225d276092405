"""A tensor that says it is on an accelerator."""

from __future__ import annotations

import operator
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

_ATEN = torch.ops.aten
DEVICES: list[Any] = []
"""Devices that are there now; tensors are computed by the newest, and outlive none."""


class StandinTensor(Tensor):
    """A tensor on ``cuda:0`` whose numbers lie in a host tensor that only :mod:`workbench.standin` looks at.

    Kernels get no address of it: one that was made for the CPU fails.

    Parameters
    ----------
    inner : Tensor
        On the host.
    """

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> StandinTensor:
        made = Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=torch.device("cuda", 0),
        )
        made.inner = inner.detach() if inner.requires_grad else inner
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not DEVICES:
            raise RuntimeError("a stand-in's tensor was used after standin() had ended")
        return DEVICES[-1].run(func, args, kwargs or {})

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"StandinTensor(shape={list(self.shape)}, dtype={self.dtype}, device={self.device})"

    def __deepcopy__(self, memo: dict[int, Any]) -> StandinTensor:
        made = self.clone()
        return memo.setdefault(id(self), nn.Parameter(made, False) if isinstance(self, nn.Parameter) else made)

    # By these torch knows that a module's parameter of another kind is exchanged for it, not overwritten.

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["inner"], None

    @staticmethod
    def __tensor_unflatten__(tensors: dict[str, Tensor], _: Any, size: Any, stride: Any) -> StandinTensor:
        return StandinTensor(tensors["inner"])

    @property
    def data(self) -> Tensor:
        return self.detach()

    @data.setter
    def data(self, other: Tensor) -> None:
        """Let it hold what another one holds, as loaded parameters do that are joined to one; it goes to the host with
        a module that goes there."""
        if not isinstance(other, StandinTensor):
            made = nn.Parameter(other, False) if isinstance(self, nn.Parameter) else other.detach()
            torch.utils.swap_tensors(self, made)
            return
        if self.shape != other.shape:
            raise RuntimeError(f"a stand-in's tensor keeps its shape {list(self.shape)}: {list(other.shape)} was given")
        self.inner = other.inner

    def data_ptr(self) -> int:
        """Tells tensors apart, and is no address for anybody who would read there."""
        if sys._getframe(1).f_globals.get("__name__", "").startswith("workbench_kernels"):
            raise RuntimeError("a kernel for the CPU was given a tensor on cuda:0")
        return self.inner.data_ptr()

    def untyped_storage(self) -> Any:
        return self.inner.untyped_storage()

    def tolist(self) -> Any:
        """As torch does it: one copy to the host."""
        return self.cpu().tolist()

    def numpy(self, *, force: bool = False) -> Any:
        """Refused, as of any device."""
        if force:
            return self.cpu().numpy()
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")

    def __array__(self, *_: Any, **__: Any) -> Any:
        return self.numpy()

    # Torch's own way to numbers and to indices wants a device guard, which a build without accelerators does not have.

    def item(self) -> Any:
        """The one number; the host waits for it."""
        if self.numel() != 1:
            raise RuntimeError(f"a Tensor with {self.numel()} elements cannot be converted to Scalar")
        return _ATEN._local_scalar_dense(self.reshape(()))

    def __int__(self) -> int:
        return int(self.item())

    def __float__(self) -> float:
        return float(self.item())

    def __bool__(self) -> bool:
        return bool(self.item())

    def __index__(self) -> int:
        if self.is_floating_point():
            raise TypeError("only integer tensors of a single element can be converted to an index")
        return int(self.item())

    def __getitem__(self, index: Any) -> Tensor:
        view, tensors = _basic(self, index)
        return _ATEN.index.Tensor(view, tensors) if tensors else view

    def __setitem__(self, index: Any, value: Any) -> None:
        view, tensors = _basic(self, index)
        if tensors:
            value = value if isinstance(value, Tensor) else torch.tensor(value, dtype=self.dtype)
            _ATEN.index_put_.default(view, tensors, value.to(self.dtype))
        elif isinstance(value, Tensor):
            # Leading dimensions of one are dropped, as torch does.
            while value.dim() > view.dim() and value.shape[0] == 1:
                value = value[0]
            view.copy_(value)
        else:
            view.fill_(value)


def _basic(tensor: Tensor, index: Any) -> tuple[Tensor, list[Tensor | None]]:
    """The view that numbers, slices and None give, and the tensors that it is indexed with after that."""
    parts = list(index) if isinstance(index, tuple) else [index]
    taken = sum(_dims(part) for part in parts)
    full = [slice(None)] * (tensor.dim() - taken)
    for place, part in enumerate(parts):
        if part is Ellipsis:
            parts[place : place + 1] = full
            break
    view, dim, tensors = tensor, 0, list[Tensor | None]()
    for part in parts:
        if part is None:
            view, dim = view.unsqueeze(dim), dim + 1
        elif isinstance(part, slice):
            start, stop, step = (None if each is None else operator.index(each) for each in _bounds(part))
            if (start, stop, step) != (None, None, None):
                view = _ATEN.slice.Tensor(view, dim, start, stop, 1 if step is None else step)
            dim += 1
        elif _is_number(part):
            view = view.select(dim, int(part))
        else:
            part = part if isinstance(part, Tensor) else torch.tensor(_listed(part))
            tensors += [None] * (dim - len(tensors)) + [part if part.numel() or _mask(part) else part.long()]
            dim += part.dim() if _mask(part) else 1
    return view, tensors


def _bounds(part: slice) -> tuple[Any, Any, Any]:
    return part.start, part.stop, part.step


def _dims(part: Any) -> int:
    """Dimensions of the tensor that a part of an index uses up."""
    if part is None or part is Ellipsis:
        return 0
    return part.dim() if isinstance(part, Tensor) and _mask(part) else 1


def _is_number(part: Any) -> bool:
    if isinstance(part, Tensor):
        return part.dim() == 0 and not part.is_floating_point() and not _mask(part)
    return not isinstance(part, Sequence) and hasattr(part, "__index__") and not hasattr(part, "__len__")


def _mask(part: Tensor) -> bool:
    return part.dtype in (torch.bool, torch.uint8)


def _listed(part: Any) -> Any:
    return part if not isinstance(part, range) else list(part)
