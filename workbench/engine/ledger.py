"""Who spent what: counted FLOPs and bytes, and seconds of wall clock, of a model, a drafter and the policies."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from workbench.errors import SettingError
from workbench.models.projection import LinearMap

MODEL, DRAFT, POLICY = "model", "draft", "policy"
"""Who the engine itself counts for; a technique may write down its work under any other name too."""


@dataclass(slots=True)
class Spent:
    """What one of them spent.

    Attributes
    ----------
    flops, bytes : int
        Counted, as :mod:`workbench.cost.count` counts: a multiply-add is two operations; weights and cache read and
        written.
    seconds : float
        Wall clock [s]. An accelerator works on after a call has returned: what it does then falls to whoever waits.
    """

    flops: int = 0
    bytes: int = 0
    seconds: float = 0.0


class Ledger:
    """What everybody spent since it was last reset.

    A run has one (:attr:`workbench.engine.slots.Run.ledger`), reset at the beginning of every step; what a policy
    writes there is part of the step's ``flops`` and ``bytes``.

    Examples
    --------
    >>> ledger = Ledger()
    >>> ledger.count("policy", flops=200, bytes=40)
    >>> ledger.count("model", flops=1000, bytes=400)
    >>> ledger.flops, ledger.besides("model").flops
    (1200, 200)
    """

    def __init__(self) -> None:
        self._spent: dict[str, Spent] = {}

    def __repr__(self) -> str:
        parts = (f"{who} {spent.flops:.3g} FLOPs, {spent.bytes:.3g} B" for who, spent in self._spent.items())
        return f"<Ledger: {'; '.join(parts) or 'nothing spent'}>"

    def reset(self) -> None:
        """Begin anew."""
        self._spent.clear()

    def count(self, who: str, flops: float = 0, bytes: float = 0, seconds: float = 0.0) -> None:
        """Write down work."""
        spent = self._spent.get(who)
        if spent is None:
            spent = self._spent[who] = Spent()
        spent.flops += int(flops)
        spent.bytes += int(bytes)
        spent.seconds += seconds

    def product(self, who: str, rows: int, weight: Tensor | LinearMap) -> None:
        """Write down ``rows`` rows times a linear map, which says what that costs, or a weight [out, in]: ``2 * rows *
        out * in`` FLOPs, and the weight is read once."""
        if isinstance(weight, Tensor):
            self.count(who, 2 * rows * weight.numel(), weight.numel() * weight.element_size())
        else:
            self.count(who, weight.flops(rows), weight.bytes(rows))

    @contextlib.contextmanager
    def timed(self, who: str) -> Iterator[None]:
        """Write down how long what stands under ``with`` takes [s]."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.count(who, seconds=time.perf_counter() - start)

    def of(self, who: str) -> Spent:
        """What one of them spent; not to be changed."""
        return self._spent.get(who, Spent())

    def besides(self, *names: str) -> Spent:
        """What all but these spent together."""
        others = [spent for who, spent in self._spent.items() if who not in names]
        return Spent(
            sum(spent.flops for spent in others),
            sum(spent.bytes for spent in others),
            sum(spent.seconds for spent in others),
        )

    @property
    def flops(self) -> int:
        """Of all together."""
        return sum(spent.flops for spent in self._spent.values())

    @property
    def bytes(self) -> int:
        """Of all together."""
        return sum(spent.bytes for spent in self._spent.values())


def head_cost(head: Any, rows: int) -> tuple[int, int]:
    """FLOPs and bytes of ``rows`` rows through a head.

    Parameters
    ----------
    head : callable
        One with methods ``flops(rows)`` and ``bytes(rows)`` is asked; a module multiplies every row with every weight
        of two dimensions or more, and reads all its parameters once.
    rows : int

    Raises
    ------
    SettingError
        If it is neither: its work would go uncounted.
    """
    flops: Callable[[int], int] | None = getattr(head, "flops", None)
    moved: Callable[[int], int] | None = getattr(head, "bytes", None)
    if callable(flops) and callable(moved):
        return flops(rows), moved(rows)
    if isinstance(head, nn.Module):
        weights = list(head.parameters())
        products = sum(weight.numel() for weight in weights if weight.dim() >= 2)
        return 2 * rows * products, sum(weight.numel() * weight.element_size() for weight in weights)
    raise SettingError(
        f"what {head!r} costs is not known: give a module, or a callable object with flops(rows) and bytes(rows)"
    )
