"""Operations of torch as a device with memory of its own runs them: what is refused, and what is waited for."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

import torch
from torch import Tensor

from workbench.standin.counts import Counts
from workbench.standin.tensor import StandinTensor

_HOST = torch.device("cpu")
_NUMBERS = {"_local_scalar_dense", "item", "is_nonzero"}
_SIZES = {"nonzero", "nonzero_numpy", "masked_select", "_unique2", "_unique", "unique_dim", "unique_consecutive",
          "bincount", "argwhere"}  # fmt: skip
_COMPARED = {"equal", "allclose"}
_COPIES = {"_to_copy", "to", "cpu", "cuda", "_copy_from"}
_INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}
_MIXED = "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! ({})"


class Device:
    """Runs operations on what its tensors hold.

    Attributes
    ----------
    counts : Counts
    busy : bool
        Whether this thread has given it something to do since it last waited for it. What other threads gave it is left
        out: counts would hang on when they did.
    """

    def __init__(self) -> None:
        self.counts, self._threads = Counts(), threading.local()

    @property
    def busy(self) -> bool:
        return getattr(self._threads, "busy", False)

    @busy.setter
    def busy(self, value: bool) -> None:
        self._threads.busy = value

    def wait(self, kind: str, times: int = 1) -> None:
        """The host waits until everything is done; what a shape was wanted for is still to do after that."""
        self.counts.wait(kind, times)
        self.busy = kind == "size"

    def run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """An operation of torch, as a device with memory of its own runs it.

        Raises
        ------
        RuntimeError
            If its tensors lie on both sides.
        """
        met = _Met()
        plain_args, plain_kwargs = met.unwrapped(args), {key: met.unwrapped(each) for key, each in kwargs.items()}
        there, asked = bool(met.wrapped), _asked(args, kwargs)
        if not there and asked != "cuda":
            return func(*args, **kwargs)
        name = func._schema.name.partition("::")[2]
        target = asked or "cuda"
        if asked is not None:
            plain_args, plain_kwargs = _hosted(plain_args), {**_hosted(plain_kwargs)}
            plain_kwargs = {key: each for key, each in plain_kwargs.items() if key != "pin_memory"}
        self.busy = self.busy or not func.is_view
        if name == "copy_":
            target = self._copied(args[0], args[1])
        elif name in _COPIES:
            other = next((each for each in args[1:2] if isinstance(each, Tensor)), None)  # to(other): where that is
            target = target if other is None else "cuda" if isinstance(other, StandinTensor) else "cpu"
            self._passed(isinstance(args[0], StandinTensor), target, bool(kwargs.get("non_blocking")))
        elif name in _INDEXED:
            self._indexed(name, args)
        elif met.host:
            raise RuntimeError(_MIXED.format(func))
        if met.generator and target == "cuda":
            raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
        self._waited(f"{name}.{func._overloadname}", kwargs, there)
        if name == "histc" and not plain_args[0].is_floating_point():
            plain_args = (plain_args[0].float(), *plain_args[1:])  # torch counts integers on a GPU alone
        out = func(*plain_args, **plain_kwargs)
        # A view is of the kind that its base is, made in inference mode or not.
        kept = func.is_view and torch.is_inference_mode_enabled() and there and not args[0].is_inference()
        with torch.inference_mode(False) if kept else contextlib.nullcontext():
            return met.wrapped_again(out, target)

    def _passed(self, there: bool, target: str, pinned: bool = False) -> None:
        if there and target == "cpu":
            self.wait("copy")
        elif not there and target == "cuda" and not pinned:
            self.counts.upload()

    def _copied(self, to: Tensor, source: Tensor) -> str:
        inside = isinstance(to, StandinTensor)
        self._passed(isinstance(source, StandinTensor), "cuda" if inside else "cpu")
        return "cuda" if inside else "cpu"

    def _indexed(self, name: str, args: Any) -> None:
        """A host tensor may be an index, and goes to the device for it; a mask has to be counted first."""
        indices = [each for each in args[1] if each is not None]
        if not isinstance(args[0], StandinTensor):
            raise RuntimeError("indices should be either on cpu or on the same device as the indexed tensor (cpu)")
        for each in indices:
            if not isinstance(each, StandinTensor):
                self.counts.upload()
        masks = sum(each.dtype in (torch.bool, torch.uint8) for each in indices)
        if "put" in name:
            value = args[2]
            if not isinstance(value, StandinTensor) and value.dim():
                raise RuntimeError(_MIXED.format(name))
            if masks == len(indices) == 1 and value.numel() == 1 and not isinstance(value, StandinTensor):
                return  # torch fills by the mask as it is
        if masks:
            self.wait("size", masks)

    def _waited(self, called: str, kwargs: dict[str, Any], there: bool) -> None:
        name = called.partition(".")[0]
        if not there:
            return
        if name in _NUMBERS:
            self.wait("item")
        elif name in _COMPARED:
            self.wait("equal")
        elif name in _SIZES or called == "where.default":
            self.wait("size")
        elif name == "multinomial":
            self.wait("item", 2)  # it looks whether these are probabilities
        elif called.startswith("repeat_interleave") and "Tensor" in called and kwargs.get("output_size") is None:
            self.wait("size")


class _Met:
    """The tensors of one operation."""

    def __init__(self) -> None:
        self.wrapped: dict[int, StandinTensor] = {}
        self.host = self.generator = False

    def unwrapped(self, value: Any) -> Any:
        """``value`` with host tensors in the place of the device's."""
        if isinstance(value, StandinTensor):
            self.wrapped[id(value.inner)] = value
            return value.inner
        if isinstance(value, Tensor):
            self.host = self.host or value.dim() > 0
        elif isinstance(value, torch.Generator):
            self.generator = True
        elif isinstance(value, list | tuple):
            return type(value)(map(self.unwrapped, value))
        return value

    def wrapped_again(self, value: Any, target: str) -> Any:
        """What came of it; what was changed in place is the tensor that it was."""
        if isinstance(value, Tensor):
            if target == "cpu":
                return value
            known = self.wrapped.get(id(value))
            return StandinTensor(value) if known is None else known
        if isinstance(value, list | tuple):
            return type(value)(self.wrapped_again(each, target) for each in value)
        return value


def _asked(args: Any, kwargs: dict[str, Any]) -> str | None:
    """The kind of device that an operation names."""
    named = kwargs.get("device")
    if named is None:
        named = next((each for each in args if isinstance(each, torch.device)), None)
    return None if named is None else torch.device(named).type


def _hosted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _HOST if key == "device" and each is not None else each for key, each in value.items()}
    return type(value)(_HOST if isinstance(each, torch.device) else each for each in value)
