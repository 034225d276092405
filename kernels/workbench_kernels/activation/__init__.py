"""Activations of an MLP, gated or not, in one pass over the numbers on the CPU.

Torch's own take one way for whole vectors and another for what is left at the end of a chunk, and the two differ in the
last place: what a number becomes then depends on how many rows there are and on how many threads share them. Here it
does not. Rounding is what the modules of transformers do: the activation is rounded to the dtype before it meets the
gated half.
"""

import ctypes
import functools

import torch
from torch import Tensor

from workbench_kernels.dispatch import BackendUnavailable
from workbench_kernels.native import function

__all__ = ["KINDS", "BackendUnavailable", "activate", "compiled"]

KINDS = ("silu", "gelu", "gelu_tanh")
"""``silu``: x / (1 + exp(-x)). ``gelu``: x (1 + erf(x / √2)) / 2. ``gelu_tanh``: x (1 + tanh(√(2/π) (x + 0.044715 x³)))
/ 2. Hendrycks and Gimpel, Gaussian Error Linear Units, 2016, arXiv 1606.08415; the gate, Shazeer, GLU Variants Improve
Transformer, 2020, arXiv 2002.05202."""
_NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


@functools.cache
def compiled(kind: str, dtype: torch.dtype, *flags: str) -> ctypes._CFuncPtr:
    """The function for a kind and dtype; :class:`workbench_kernels.dispatch.BackendUnavailable` where there is none."""
    if dtype not in _NAMES:
        raise BackendUnavailable(f"there is no compiled activation for {dtype}")
    arguments = [ctypes.c_void_p] * 2 + [ctypes.c_long] * 2 + [ctypes.c_int, ctypes.c_long]
    return function(f"{kind}_{_NAMES[dtype]}", arguments, *flags)


def activate(inner: Tensor, kind: str, gated: bool, *flags: str) -> Tensor:
    """``f(inner)``, or ``f(gate) * up`` of the two halves of the last dimension.

    Parameters
    ----------
    inner : Tensor [..., width], or [..., 2 * width] where gated
        float32 or bfloat16, on the CPU; the gate is the first half.
    kind : str
        One of :data:`KINDS`.
    gated : bool

    Returns
    -------
    Tensor [..., width]

    Raises
    ------
    BackendUnavailable
        If it cannot be compiled here, or there is none for the dtype.
    """
    inner = inner.contiguous()
    width = inner.shape[-1] // (2 if gated else 1)
    out = inner.new_empty(*inner.shape[:-1], width)
    count, threads = inner.numel() // inner.shape[-1], torch.get_num_threads()
    compiled(kind, inner.dtype, *flags)(inner.data_ptr(), out.data_ptr(), count, width, gated, threads)
    return out
