"""One matrix product, done the way that is fastest on this machine.

A decode step multiplies every weight with very few rows, so it is bound by how fast weights are read. On a CPU the
same product differs several-fold in speed between the libraries that torch can call, and which one wins depends on
the processor, the dtype and the number of rows. :class:`Multiply` measures the candidates once on a weight of the
model and keeps the fastest for each number of rows. All candidates compute the same sums in another order.

One candidate wants the weights in a layout of its own, as oneDNN blocks them. It is about twice as fast for the few
rows of a verification, and costs a second copy of the weights, which is made only where memory is plentiful.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import psutil
import torch
from torch import Tensor
from torch.nn import functional as F

_ROWS = (1, 2, 4, 8, 16, 32, 64)
# Rows that the packed layout is chosen for; it serves any number.
_PACKED_FOR = 16
# Share of the free memory that a second copy of the weights may take.
_SPARE = 0.25


def _linear(rows: Tensor, weight: Tensor) -> Tensor:
    return F.linear(rows, weight)


def _columns(rows: Tensor, weight: Tensor) -> Tensor:
    """Rows as columns of the right factor; a lone row is doubled, since two columns take the fast matrix path."""
    if rows.shape[0] == 1:
        return torch.mm(weight, rows.expand(2, -1).contiguous().t()).t()[:1]
    return torch.mm(weight, rows.t()).t()


def _one_dnn(rows: Tensor, weight: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(rows, weight, None, "none", [], "")


def _halves(rows: Tensor, weight: Tensor) -> Tensor:
    """Two batched halves of the weight, one for each thread of a library that does not split a single row."""
    half = weight.view(2, -1, weight.shape[-1]).transpose(1, 2)
    return torch.matmul(rows, half).transpose(0, 1).reshape(rows.shape[0], -1)


def _native(rows: Tensor, weight: Tensor) -> Tensor:
    """Torch's own reduced-precision matrix-vector product, which oneDNN otherwise shadows."""
    enabled = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    try:
        return torch.mv(weight, rows[0])[None]
    finally:
        torch._C._set_mkldnn_enabled(enabled)


CANDIDATES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "linear": _linear,
    "columns": _columns,
    "one_dnn": _one_dnn,
    "halves": _halves,
    "native": _native,
}


class Packed:
    """Copies of weights in oneDNN's blocked layout, kept true to their originals.

    Parameters
    ----------
    weights : sequence of Tensor [out, in]
        Contiguous, on the CPU.
    """

    def __init__(self, weights: Sequence[Tensor] = ()) -> None:
        self._originals: dict[tuple[int, int], Tensor] = {}
        self._packed: dict[tuple[int, int], Tensor] = {}
        self._samples: Tensor | None = None
        self.add(weights)

    def __call__(self, rows: Tensor, weight: Tensor) -> Tensor:
        """``rows @ weight.T``; a weight that was not packed is multiplied as it is."""
        packed = self._packed.get((weight.data_ptr(), weight.shape[0]))
        if packed is None:
            return F.linear(rows, weight)
        return torch.ops.mkldnn._linear_pointwise(rows, packed, None, "none", [], "")

    @torch.no_grad()
    def add(self, weights: Sequence[Tensor]) -> None:
        """Pack more weights."""
        for weight in weights:
            key = weight.data_ptr(), weight.shape[0]
            self._originals[key] = weight
            self._packed[key] = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), _PACKED_FOR)
        self._samples = self._sample()

    def refresh(self) -> None:
        """Pack anew what was changed since: a few spread elements of every weight are compared."""
        if self._originals and not torch.equal(self._samples, self._sample()):
            self.repack()

    def repack(self) -> None:
        """Pack every weight anew."""
        self.add(list(self._originals.values()))

    def _sample(self) -> Tensor | None:
        spread = [each.detach().view(-1)[:: max(1, each.numel() // 16)][:16] for each in self._originals.values()]
        return torch.cat(spread) if spread else None


class Multiply:
    """``multiply(x, weight, bias)``: ``x @ weight.T + bias`` by the fastest candidate for ``x``'s number of rows.

    Parameters
    ----------
    choices : dict of int to str, optional
        Candidate for each number of rows, up to the largest one given; None (and any larger number of rows) uses
        :func:`torch.nn.functional.linear`.
    packed : Packed, optional
        Weights for the candidate ``packed``.
    """

    def __init__(self, choices: dict[int, str] | None = None, packed: Packed | None = None) -> None:
        self.choices = dict(choices or {})
        self.packed = packed or Packed()
        candidates = {**CANDIDATES, "packed": self.packed}
        limit = max(self.choices, default=0)
        self._table = [_linear] * (limit + 1)
        for rows in range(1, limit + 1):
            nearest = min((known for known in self.choices if known >= rows), default=limit)
            self._table[rows] = candidates[self.choices[nearest]]
            if rows > 1 and self._table[rows] is _native:
                self._table[rows] = _linear

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        rows = x.numel() // x.shape[-1]
        if rows >= len(self._table) or not weight.is_contiguous():
            return F.linear(x, weight, bias)
        product = self._table[rows](x.reshape(rows, -1), weight).view(*x.shape[:-1], -1)
        return product if bias is None else product + bias

    @classmethod
    @torch.no_grad()
    def measured(cls, weights: list[Tensor], others: Sequence[Tensor] = (), repeats: int = 4) -> Multiply:
        """Time every candidate on the given weights and keep the fastest one for each number of rows.

        Parameters
        ----------
        weights : list of Tensor [out, in]
            Weights as they occur in one pass, together larger than the last-level cache so that memory is timed too.
        others : sequence of Tensor [out, in]
            Weights that are multiplied too and need no timing of their own.
        repeats : int
            The best of that many timings counts, which is what a quiet machine would show.

        Notes
        -----
        Takes about a second for a model of 100 million parameters. A candidate that is not built into this torch, or
        that errs on this dtype, is passed over. On other devices than the CPU nothing is timed.
        """
        if not weights or weights[0].device.type != "cpu" or sum(w.numel() for w in weights) < 2**20:
            return cls()
        choices = {}
        needed = sum(w.numel() * w.element_size() for w in (*weights, *others))
        roomy = needed < _SPARE * psutil.virtual_memory().available
        packed = _try_to_pack(weights) if roomy else None
        candidates = CANDIDATES if packed is None else {**CANDIDATES, "packed": packed}
        for rows in _ROWS:
            inputs = {w.shape[1]: torch.randn(rows, w.shape[1]).to(w.dtype) for w in weights}
            best = {name: float("inf") for name in candidates if name != "native" or rows == 1}
            # Round by round rather than candidate by candidate, so that a busy moment hits all alike.
            for _ in range(repeats):
                for name in list(best):
                    try:
                        best[name] = min(best[name], _seconds(candidates[name], inputs, weights))
                    except (RuntimeError, AttributeError, NotImplementedError):
                        del best[name]
            # Keep the plain product unless another one is clearly faster: fewer surprises in rounding.
            fastest = min(best, key=best.__getitem__)
            choices[rows] = fastest if best[fastest] < 0.93 * best["linear"] else "linear"
        if "packed" not in choices.values():
            return cls(choices)
        packed.add(others)
        return cls(choices, packed)


def _try_to_pack(weights: Sequence[Tensor]) -> Packed | None:
    """None where this torch has no oneDNN, or none for the dtype."""
    try:
        return Packed(weights)
    except (RuntimeError, AttributeError, NotImplementedError):
        return None


def _seconds(candidate: Callable[[Tensor, Tensor], Tensor], inputs: dict[int, Tensor], weights: list[Tensor]) -> float:
    start = time.perf_counter()
    for weight in weights:
        candidate(inputs[weight.shape[1]], weight)
    return time.perf_counter() - start
