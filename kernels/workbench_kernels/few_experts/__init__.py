"""Experts of a mixture for a few rows, in one call: a decode step through a layer of many small experts on the CPU.

A token of a fine-grained mixture runs many experts of few neurons. One by one, each asks for several operations on
hardly any numbers, and calling them takes longer than what they do. Every sum here is the one that single steps form,
bit for bit, so that a pass of many rows may take those.
"""

import ctypes
import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from workbench_kernels.activation import KINDS
from workbench_kernels.dispatch import BackendUnavailable
from workbench_kernels.native import function

__all__ = ["BackendUnavailable", "compiled", "few_experts"]

_NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


@functools.cache
def compiled(kind: str, dtype: torch.dtype, *flags: str) -> ctypes._CFuncPtr:
    """The function for an activation and a dtype; :class:`workbench_kernels.dispatch.BackendUnavailable` where there is
    none."""
    if dtype not in _NAMES or kind not in KINDS:
        raise BackendUnavailable(f"there is no kernel of experts for {kind} and {dtype}")
    arguments = [ctypes.c_void_p] * 7 + [ctypes.c_long] * 5
    return function(f"few_experts_{kind}_{_NAMES[dtype]}", arguments, *flags)


def few_experts(
    rows: Tensor,
    tokens: Sequence[int],
    gate_up: Sequence[Tensor],
    down: Sequence[Tensor],
    weights: Tensor,
    kind: str,
    *flags: str,
) -> Tensor:
    """``out[token] += weight * down @ f(gate @ row) * (up @ row)``, for every pair of a token and an expert of it.

    Parameters
    ----------
    rows : Tensor [tokens, width]
        float32 or bfloat16, on the CPU.
    tokens : sequence of int
        The row of each pair.
    gate_up, down : sequence of Tensor
        Weights of each pair's expert, contiguous, [2 * inner, width] and [width, inner]; all of one size.
    weights : Tensor [pairs]
        What each counts; of the dtype of the rows.
    kind : str
        Activation f, of :data:`workbench_kernels.activation.KINDS`.

    Returns
    -------
    Tensor [tokens, width]
        What several experts give a row is added in the order of the pairs.

    Raises
    ------
    BackendUnavailable
        If it cannot be compiled here, or there is none for the activation or dtype.
    """
    run = compiled(kind, rows.dtype, *flags)
    rows, weights, pairs = rows.contiguous(), weights.contiguous(), len(tokens)
    (count, width), out = rows.shape, torch.empty_like(rows)
    inner = down[0].shape[1] if pairs else 0
    scratch = rows.new_empty(pairs * (3 * inner + width))
    pointers = ctypes.c_void_p * pairs
    run(
        rows.data_ptr(),
        (ctypes.c_long * pairs)(*tokens),
        pointers(*(each.data_ptr() for each in gate_up)),
        pointers(*(each.data_ptr() for each in down)),
        weights.data_ptr(),
        scratch.data_ptr(),
        out.data_ptr(),
        count,
        width,
        inner,
        pairs,
        torch.get_num_threads(),
    )
    return out
