"""Experts of a mixture for a few rows, in one call: a decode step through a layer of many small experts on the CPU.

A token of a fine-grained mixture runs many experts of few neurons. One by one, each asks for several operations on
hardly any numbers, and calling them takes longer than what they do. Every sum here is the one that single steps form,
bit for bit, so that a pass of many rows may take those.
"""

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from workbench_kernels.activation import KINDS
from workbench_kernels.dispatch import BackendUnavailable
from workbench_kernels.native import function

__all__ = ["BackendUnavailable", "FewExperts", "compiled"]

_NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


def compiled(kind: str, dtype: torch.dtype, *flags: str) -> ctypes._CFuncPtr:
    """The function for an activation and a dtype; :class:`workbench_kernels.dispatch.BackendUnavailable` where there is
    none."""
    if dtype not in _NAMES or kind not in KINDS:
        raise BackendUnavailable(f"there is no kernel of experts for {kind} and {dtype}")
    return function(f"few_experts_{kind}_{_NAMES[dtype]}", [ctypes.c_void_p] * 7 + [ctypes.c_long] * 6, *flags)


class FewExperts:
    """The experts of one layer, made ready once; it checks nothing.

    Parameters
    ----------
    gate_up, down : sequence of Tensor
        Weights of every expert, [2 * inner, width] and [width, inner], contiguous, float32 or bfloat16, on the CPU; at
        every call they are read where they stand.
    kind : str
        Activation f, of :data:`workbench_kernels.activation.KINDS`.
    *flags : str
        For the compiler, after ``-march=native``.

    Raises
    ------
    BackendUnavailable
        If it cannot be compiled here, or there is none for the activation or dtype.
    """

    def __init__(self, gate_up: Sequence[Tensor], down: Sequence[Tensor], kind: str, *flags: str) -> None:
        self._run = compiled(kind, down[0].dtype, *flags)
        self._held = tuple(gate_up), tuple(down)
        pointers = ctypes.c_void_p * len(down)
        self._pointers = [pointers(*(each.data_ptr() for each in weights)) for weights in self._held]
        (self._width, self._inner), self._experts = down[0].shape, len(down)

    def __call__(self, rows: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
        """``out[row] = sum of weight * down @ (f(gate @ row) * (up @ row))`` over a row's experts.

        Parameters
        ----------
        rows : Tensor [rows, width]
            Of the weights' dtype.
        indices : int64 Tensor [rows, any]
            Experts of each row; a number that no expert has is none.
        weights : Tensor [rows, any]
            What each counts; of the weights' dtype.

        Returns
        -------
        Tensor [rows, width]
        """
        rows, indices, weights = rows.contiguous(), indices.contiguous(), weights.contiguous()
        out = torch.empty_like(rows)
        scratch = rows.new_empty(indices.numel() * (3 * self._inner + self._width))
        self._run(
            rows.data_ptr(), indices.data_ptr(), weights.data_ptr(), *self._pointers, scratch.data_ptr(),
            out.data_ptr(), *indices.shape, self._width, self._inner, self._experts, torch.get_num_threads(),
        )  # fmt: skip
        return out
