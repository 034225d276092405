"""The compiled path for the CPU: see ``tree_attention.cpp``."""

import ctypes
import functools
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from workbench_kernels.dispatch import BackendUnavailable
from workbench_kernels.native import function

SOURCE = Path(__file__).with_name("tree_attention.cpp")
DTYPES = {torch.float32: "tree_attention_float32", torch.bfloat16: "tree_attention_bfloat16"}


@functools.cache
def available(dtype: torch.dtype) -> bool:
    """Whether there is a compiled function for a dtype, or one can be made."""
    try:
        return dtype in DTYPES and compiled(dtype) is not None
    except BackendUnavailable:
        return False


@functools.cache
def compiled(dtype: torch.dtype, *flags: str) -> ctypes._CFuncPtr:
    """The compiled function for a dtype; :class:`workbench_kernels.dispatch.BackendUnavailable` where there is none."""
    return function(SOURCE, DTYPES[dtype], [ctypes.c_void_p] * 5 + [ctypes.c_long] * 9 + [ctypes.c_float], *flags)


def native_attention(
    query: Float[Tensor, "batch heads tokens head_dim"],
    keys: Float[Tensor, "batch kv_heads held head_dim"],
    values: Float[Tensor, "batch kv_heads held head_dim"],
    visible: UInt8[Tensor, "tokens tokens"],
    scale: float,
    *flags: str,
) -> Float[Tensor, "batch heads tokens head_dim"]:
    """Weighted values; `visible` is 1 where a row's token may see a column's."""
    if query.dtype not in DTYPES:
        raise ValueError(f"the compiled attention takes float32 and bfloat16, not {query.dtype}")
    keys, values = _rows(keys), _rows(values)
    query = query if query.stride(3) == 1 else query.contiguous()
    batch, heads, tokens, head_dim = query.shape
    kv_heads, held = keys.shape[1], keys.shape[2]
    out = query.new_empty(query.shape)
    run = compiled(query.dtype, *flags)
    for each in range(batch):
        run(
            query[each].data_ptr(),
            keys[each].data_ptr(),
            values[each].data_ptr(),
            visible.data_ptr(),
            out[each].data_ptr(),
            kv_heads,
            heads // kv_heads,
            tokens,
            held,
            head_dim,
            query.stride(1),
            query.stride(2),
            keys.stride(1),
            values.stride(1),
            scale,
        )
    return out


def _rows(buffer: Tensor) -> Tensor:
    return buffer if buffer.stride(3) == 1 and buffer.stride(2) == buffer.shape[3] else buffer.contiguous()
