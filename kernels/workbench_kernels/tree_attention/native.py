"""The compiled path for the CPU: see ``tree_attention.cpp``."""

import ctypes
import functools

import torch
from torch import Tensor

from workbench_kernels.native import function

DTYPES = {torch.float32: "tree_attention_float32", torch.bfloat16: "tree_attention_bfloat16"}


@functools.cache
def compiled(dtype: torch.dtype, *flags: str) -> ctypes._CFuncPtr:
    """The compiled function for a dtype; :class:`workbench_kernels.dispatch.BackendUnavailable` where there is none."""
    arguments = [ctypes.c_void_p] * 5 + [ctypes.c_long] * 12 + [ctypes.c_float] * 2 + [ctypes.c_void_p, ctypes.c_long]
    return function(DTYPES[dtype], arguments, *flags)


def native_attention(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    visible: Tensor | None,
    scale: float,
    *flags: str,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """Weighted values [batch, heads, tokens, head_dim].

    Parameters
    ----------
    query : Tensor [batch, heads, tokens, head_dim]
    keys, values : Tensor [batch, kv_heads, held, head_dim]
        The last ``tokens`` entries are the queries' own.
    visible : uint8 Tensor [tokens, columns] or [kv_heads, tokens, columns], or None
        1 where a row's token may see one of the last ``columns`` keys; all keys before them are visible. None for a
        chain: a token sees everything up to itself.
    scale : float
    window : int, optional
        Of a chain: a token sees that many keys, its own included.
    softcap : float, optional
        Scores become ``softcap * tanh(score / softcap)``.
    sinks : Tensor [heads], optional
        A score of each head that stands beside those of the keys in its softmax, and has no value.
    """
    if query.dtype not in DTYPES:
        raise ValueError(f"the compiled attention takes float32 and bfloat16, not {query.dtype}")
    keys, values = _rows(keys), _rows(values)
    query = query if query.stride(3) == 1 else query.contiguous()
    batch, heads, tokens, head_dim = query.shape
    kv_heads, held = keys.shape[1], keys.shape[2]
    columns = per_head = 0
    if visible is not None:
        visible, columns = visible.contiguous(), visible.shape[-1]
        per_head = tokens * columns if visible.ndim == 3 and visible.shape[0] > 1 else 0
    out = query.new_empty(query.shape)
    taken = None if sinks is None else sinks.detach().float().contiguous()
    run = compiled(query.dtype, *flags)
    for each in range(batch):
        run(
            query[each].data_ptr(),
            keys[each].data_ptr(),
            values[each].data_ptr(),
            None if visible is None else visible.data_ptr(),
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
            columns,
            per_head,
            held if window is None else window,
            scale,
            softcap or 0.0,
            None if taken is None else taken.data_ptr(),
            torch.get_num_threads(),
        )
    return out


def _rows(buffer: Tensor) -> Tensor:
    return buffer if buffer.stride(3) == 1 and buffer.stride(2) == buffer.shape[3] else buffer.contiguous()
