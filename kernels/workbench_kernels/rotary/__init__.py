"""Rotation of queries and keys to their positions in one pass over them, on the CPU (Su et al., RoFormer, 2021, arXiv
2104.09864)."""

import ctypes
import functools

import torch
from torch import Tensor

from workbench_kernels.dispatch import BackendUnavailable
from workbench_kernels.native import function

__all__ = ["BackendUnavailable", "compiled", "rotate"]

_NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


@functools.cache
def compiled(dtype: torch.dtype, table: torch.dtype, *flags: str) -> ctypes._CFuncPtr | None:
    """The function for dtypes of heads and tables; None where it cannot be compiled or there is none."""
    if (dtype, table) not in {(torch.float32,) * 2, (torch.bfloat16,) * 2, (torch.bfloat16, torch.float32)}:
        return None
    try:
        return function(f"rotary_{_NAMES[dtype]}_{_NAMES[table]}", [ctypes.c_void_p] * 4 + [ctypes.c_long] * 7, *flags)
    except BackendUnavailable:
        return None


def rotate(x: Tensor, cosine: Tensor, sine: Tensor, *flags: str) -> Tensor | None:
    """``x[d] * cosine[d] + x[d ± width / 2] * sine[d]``, the first product rounded to the wider of the two dtypes.

    Parameters
    ----------
    x : Tensor [batch, tokens, heads, head_dim]
        On the CPU; dimensions beyond ``width`` pass unchanged.
    cosine, sine : Tensor [tokens, 1, width]
        The sine of the first half carries the minus sign.

    Returns
    -------
    Tensor [batch, tokens, heads, head_dim], or None
        None where nothing is compiled for these dtypes here, or a shape is another.
    """
    width = cosine.shape[-1]
    run = compiled(x.dtype, cosine.dtype, *flags)
    if (
        run is None
        or x.ndim != 4
        or cosine.dtype != sine.dtype
        or not cosine.shape == sine.shape == (x.shape[1], 1, width)
        or width % 2
        or width > x.shape[3]
    ):
        return None
    batch, tokens, heads, head_dim = x.shape
    # Queries and keys stand before the values of the same token.
    if x.stride(3) != 1 or x.stride(2) != head_dim or x.stride(0) != tokens * x.stride(1):
        x = x.contiguous()
    cosine, sine, out = cosine.contiguous(), sine.contiguous(), x.new_empty(x.shape)
    run(
        x.data_ptr(),
        cosine.data_ptr(),
        sine.data_ptr(),
        out.data_ptr(),
        batch,
        tokens,
        heads,
        head_dim,
        x.stride(1),
        width,
        torch.get_num_threads(),
    )
    return out
