"""One matrix product, done the way that is fastest on this machine.

A decode step multiplies every weight with very few rows, so it is bound by how fast weights are read. On a CPU the
same product differs several-fold in speed between the libraries that torch can call, and which one wins depends on
the processor, the dtype and the number of rows. :class:`Multiply` measures the candidates once on a weight of the
model and keeps the fastest for each number of rows. All candidates compute the same sums in another order.

Where there is a C++ compiler, one candidate is the project's own kernel, :mod:`workbench_kernels.few_rows`; it is the
only one whose eight rows cost hardly more than one.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from workbench_kernels.few_rows import FewRows

_ROWS = (1, 2, 4, 8, 16, 32, 64)
# How much slower than the fastest the project's own product may look and still be taken: timings are noisy, and only
# where it serves every number of rows is a verified token computed bit for bit as a decoded one.
_LEANING = 1.3


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


_kernel = functools.cache(FewRows)


def _few_rows(rows: Tensor, weight: Tensor) -> Tensor:
    """The project's own kernel; what is to be differentiated goes through torch."""
    if torch.is_grad_enabled() and (rows.requires_grad or weight.requires_grad):
        return F.linear(rows, weight)
    return _kernel(weight.dtype)(rows, weight)


CANDIDATES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "linear": _linear,
    "columns": _columns,
    "one_dnn": _one_dnn,
    "halves": _halves,
    "native": _native,
    "few_rows": _few_rows,
}


class Multiply:
    """``multiply(x, weight, bias)``: ``x @ weight.T + bias`` by the fastest candidate for ``x``'s number of rows.

    Parameters
    ----------
    choices : dict of int to str, optional
        Candidate for each number of rows, up to the largest one given; None (and any larger number of rows) uses
        :func:`torch.nn.functional.linear`.
    """

    def __init__(self, choices: dict[int, str] | None = None) -> None:
        self.choices = dict(choices or {})
        limit = max(self.choices, default=0)
        self._table = [_linear] * (limit + 1)
        for rows in range(1, limit + 1):
            nearest = min((known for known in self.choices if known >= rows), default=limit)
            self._table[rows] = CANDIDATES[self.choices[nearest]]
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
    def measured(cls, weights: list[Tensor], repeats: int = 4) -> Multiply:
        """Time every candidate on the given weights and keep the fastest one for each number of rows.

        Parameters
        ----------
        weights : list of Tensor [out, in]
            Weights as they occur in one pass, together larger than the last-level cache so that memory is timed too.
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
        for rows in _ROWS:
            inputs = {w.shape[1]: torch.randn(rows, w.shape[1]).to(w.dtype) for w in weights}
            best = {name: float("inf") for name in CANDIDATES if name != "native" or rows == 1}
            # Round by round rather than candidate by candidate, so that a busy moment hits all alike.
            for _ in range(repeats):
                for name in list(best):
                    try:
                        best[name] = min(best[name], _seconds(CANDIDATES[name], inputs, weights))
                    except (RuntimeError, AttributeError, NotImplementedError):
                        del best[name]
            choices[rows] = _chosen(best)
        return cls(choices)


def _chosen(seconds: dict[str, float]) -> str:
    """The plain product unless another one is clearly faster; the project's own, whose sums have one order for any
    number of rows, if it is nearly the fastest."""
    fastest = min(seconds, key=seconds.__getitem__)
    if seconds.get("few_rows", float("inf")) < min(_LEANING * seconds[fastest], seconds["linear"]):
        return "few_rows"
    return fastest if seconds[fastest] < 0.93 * seconds["linear"] else "linear"


def _seconds(candidate: Callable[[Tensor, Tensor], Tensor], inputs: dict[int, Tensor], weights: list[Tensor]) -> float:
    start = time.perf_counter()
    for weight in weights:
        candidate(inputs[weight.shape[1]], weight)
    return time.perf_counter() - start
