"""Root-mean-square norm of a few rows in one call (Zhang and Sennrich, 2019, arXiv 1910.07467).

In plain torch the norm of a bfloat16 row is eight small operations, each of which takes longer to start than to do; a
decode step has two norms in every block. Rounding is what transformers' modules do: the normed row is rounded to the
dtype before the weight multiplies it, or, where ``late`` is set (Gemma), after.
"""

import ctypes
import functools

import torch
from torch import Tensor

from workbench_kernels.dispatch import BackendUnavailable
from workbench_kernels.native import function

__all__ = ["BackendUnavailable", "compiled", "rms_norm"]

_NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


@functools.cache
def compiled(dtype: torch.dtype, weight: torch.dtype, *flags: str) -> ctypes._CFuncPtr | None:
    """The function for dtypes of rows and weight; None where it cannot be compiled or there is none."""
    if (dtype, weight) not in {(torch.float32,) * 2, (torch.bfloat16,) * 2, (torch.bfloat16, torch.float32)}:
        return None
    arguments = [ctypes.c_void_p] * 3 + [ctypes.c_long] * 2 + [ctypes.c_float, ctypes.c_int, ctypes.c_long]
    try:
        return function(f"rms_norm_{_NAMES[dtype]}_{_NAMES[weight]}", arguments, *flags)
    except BackendUnavailable:
        return None


def rms_norm(rows: Tensor, weight: Tensor, eps: float, late: bool, *flags: str) -> Tensor | None:
    """Rows divided by the root of their mean square, and multiplied by a weight.

    Parameters
    ----------
    rows : Tensor [..., width]
        On the CPU.
    weight : Tensor [width]
        Contiguous.
    eps : float
        Added to the mean square.
    late : bool
        Whether the weight multiplies before the result is rounded to the dtype of the rows.

    Returns
    -------
    Tensor [..., width], or None
        None where nothing is compiled for these dtypes here, or the weight is not a contiguous [width]: torch's own
        operations say what is wrong with it, where a kernel would read beside it.
    """
    run = compiled(rows.dtype, weight.dtype, *flags)
    if run is None or weight.shape != rows.shape[-1:] or not weight.is_contiguous():
        return None
    rows = rows.contiguous()
    out = torch.empty_like(rows)
    width = rows.shape[-1]
    count, threads = rows.numel() // width, torch.get_num_threads()
    run(rows.data_ptr(), weight.data_ptr(), out.data_ptr(), count, width, eps, late, threads)
    return out
