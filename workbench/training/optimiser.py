"""What takes the steps of a training: AdamW, its two moments of every parameter in 32 bits or, block by block, in 8.

Source
------
Dettmers, Lewis, Shleifer, Zettlemoyer, 8-bit Optimizers via Block-wise Quantization, 2021, arXiv 2110.02861;
github.com/bitsandbytes-foundation/bitsandbytes, which computes them. Of a parameter with fewer than 4,096 numbers they
stay in 32 bits.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from workbench.errors import CorruptModel, SettingError

Optimiser = Literal["adamw", "adamw8bit"]
"""``adamw``, or ``adamw8bit``, whose states take a quarter of the memory and which needs bitsandbytes."""

_DECAY = 0.01
_TABLES = ("qmap1", "qmap2")  # the numbers that 8 bits stand for: the same for all parameters


def check(name: str) -> None:
    """Refuse an optimiser that cannot be had, before any work.

    Raises
    ------
    SettingError
        If there is none of this name, or its library is missing.
    """
    if name not in get_args(Optimiser):
        raise SettingError(f"there is no optimiser {name!r:.40}; there are {', '.join(get_args(Optimiser))}")
    if name == "adamw8bit":
        _eight_bit()


def optimiser_of(name: str, parameters: Mapping[str, nn.Parameter], rate: float) -> torch.optim.Optimizer:
    """The optimiser of some parameters; it raises what :func:`check` does."""
    check(name)
    kind = torch.optim.AdamW if name == "adamw" else _eight_bit()
    return kind(list(parameters.values()), lr=rate, weight_decay=_DECAY)


def _eight_bit() -> Callable[..., torch.optim.Optimizer]:
    with _alone():
        try:
            from bitsandbytes.optim import AdamW8bit
        except ImportError:
            raise SettingError(
                "the optimiser adamw8bit needs the library bitsandbytes: pip install bitsandbytes, or install the "
                "workbench with its extra eightbit; adamw needs none"
            ) from None
    return AdamW8bit


def states(optimiser: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """What an optimiser remembers of every parameter, as ``exp_avg/<parameter>``: all tensors but the step's number and
    the tables that all parameters share."""
    found = {}
    for name, parameter in parameters.items():
        for kind, value in optimiser.state.get(parameter, {}).items():
            if isinstance(value, Tensor) and kind not in ("step", *_TABLES):
                found[f"{kind}/{name}"] = value
    return found


def restore(
    optimiser: torch.optim.Optimizer,
    parameters: Mapping[str, nn.Parameter],
    step: int,
    tensors: Mapping[str, Tensor],
) -> None:
    """Give an optimiser what :func:`states` gave after ``step`` steps.

    Raises
    ------
    CorruptModel
        If something is missing, or of another shape.
    """
    held = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    for parameter in parameters.values():
        parameter.grad = torch.zeros_like(parameter)
    # One step makes whatever the optimiser remembers, in its own form; what it does to the parameters is undone.
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(held[name])
            count = optimiser.state[parameter]["step"]
            optimiser.state[parameter]["step"] = torch.full_like(count, step) if isinstance(count, Tensor) else step
        for key, value in states(optimiser, parameters).items():
            if key not in tensors or tensors[key].shape != value.shape or tensors[key].dtype != value.dtype:
                kind, _, name = key.partition("/")
                raise CorruptModel(f"the checkpoint lacks the optimiser's state of {name} ({kind})")
            value.copy_(tensors[key])


def size(optimiser: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]) -> int:
    """Bytes of all that is remembered; the tables of 8 bits, two kilobytes in all, are not among them."""
    return sum(value.numel() * value.element_size() for value in states(optimiser, parameters).values())


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Imports that reach for no kernel on a hub: on some processors bitsandbytes fetches one, where the library
    ``kernels`` is there, and warns where it is not."""
    before: Any = sys.modules.get("kernels", _alone)
    log = logging.getLogger("bitsandbytes.backends.cpu.ops")
    level = log.level
    sys.modules["kernels"] = None  # type: ignore[assignment]
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
        if before is _alone:
            del sys.modules["kernels"]
        else:
            sys.modules["kernels"] = before
