"""The highest logit of every row and its place, on the CPU.

A step of plain decoding needs nothing else of 49,152 logits, and torch takes two operations for it, each shared among
threads.
"""

import ctypes
import functools

import torch
from torch import Tensor

from workbench_kernels.dispatch import BackendUnavailable
from workbench_kernels.native import function

__all__ = ["BackendUnavailable", "compiled", "highest"]

_NAMES = {torch.float32: "highest_float32", torch.bfloat16: "highest_bfloat16"}


@functools.cache
def compiled(dtype: torch.dtype, *flags: str) -> ctypes._CFuncPtr:
    """The function for a dtype; :class:`BackendUnavailable` where there is none."""
    if dtype not in _NAMES:
        raise BackendUnavailable(f"there is no such kernel for {dtype}; float32 and bfloat16 have one")
    return function(_NAMES[dtype], [ctypes.c_void_p] * 3 + [ctypes.c_long] * 3, *flags)


def highest(rows: Tensor, *flags: str) -> tuple[Tensor, Tensor]:
    """What ``rows.max(-1)`` gives: of equal numbers the first, and NaN where there is one.

    Parameters
    ----------
    rows : Tensor [rows, width]
        float32 or bfloat16 on the CPU, not empty.

    Returns
    -------
    float32 Tensor [rows], int64 Tensor [rows]

    Raises
    ------
    BackendUnavailable
        If it cannot be compiled here, or there is none for the dtype.
    """
    rows = rows.contiguous()
    count, width = rows.shape
    values, indices = torch.empty(count, dtype=torch.float32), torch.empty(count, dtype=torch.int64)
    compiled(rows.dtype, *flags)(
        rows.data_ptr(), values.data_ptr(), indices.data_ptr(), count, width, torch.get_num_threads()
    )
    return values, indices
