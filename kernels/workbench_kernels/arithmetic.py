"""Which arithmetic a model's passes are computed with: the compiled kernels, all of them and for everything, or torch.

Two ways to form the same sum round differently, and in bfloat16 a near tie then falls the other way. So nothing is
chosen by how fast it looked on one day: where the kernels can be compiled they compute every product, norm, activation
and attention of a pass, whatever its number of rows, and where one of them cannot, torch computes all. The name of the
arithmetic stands in every trace and in the hash of every recipe.
"""

import ctypes
import functools
import hashlib
import os

import torch
from torch import Tensor

from workbench_kernels import activation, few_experts, few_rows, native, rms_norm, rotary
from workbench_kernels.dispatch import BackendUnavailable
from workbench_kernels.tree_attention import native as attention

OFF = "WORKBENCH_COMPILED"
"""Environment variable: ``0`` leaves everything to torch."""
_DTYPES = (torch.float32, torch.bfloat16)


@functools.cache
def compiled(dtype: torch.dtype) -> bool:
    """Whether the compiled kernels compute the passes of CPU models of a dtype.

    The first call may compile them, which takes some seconds. The answer holds for the whole process.
    """
    return not unavailable(dtype)


@functools.cache
def unavailable(dtype: torch.dtype) -> str:
    """Why torch computes everything of a dtype; empty where the compiled kernels do."""
    if os.environ.get(OFF, "1").lower() in {"0", "false", "off", "no", "n"}:
        return f"{OFF} is off"
    if dtype not in _DTYPES:
        return f"there are no compiled kernels for {dtype}"
    try:
        few_rows.FewRows(dtype)
        attention.compiled(dtype)
        for kind in activation.KINDS:
            activation.compiled(kind, dtype)
            few_experts.compiled(kind, dtype)
        for weight in {dtype, torch.float32}:
            if rms_norm.compiled(dtype, weight) is None or rotary.compiled(dtype, weight) is None:
                return "norm or rotation cannot be compiled here"
    except BackendUnavailable as error:
        return str(error)
    return ""


def computes(x: Tensor) -> bool:
    """Whether the compiled kernels may be given ``x``: they have no derivative, and torch's compiler cannot look into
    them."""
    on_cpu = x.device.type == "cpu"
    return on_cpu and not torch.is_grad_enabled() and not torch.compiler.is_compiling() and compiled(x.dtype)


def name(dtype: torch.dtype, device: torch.device) -> str:
    """What the sums of a pass depend on, in words that are equal where texts are.

    On a CPU the instructions of the compiled kernels and a digest of their sources, or torch's version and number of
    threads; on another device torch's version and the device's name.
    """
    if device.type != "cpu":
        where = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        return f"torch {torch.__version__} on {where}"
    if compiled(dtype):
        return f"compiled, {_instructions()}, {_digest()}"
    return f"torch {torch.__version__}, {torch.get_num_threads()} threads"


def _instructions() -> str:
    instructions = native.library(native.KERNELS).few_rows_instructions
    instructions.restype = ctypes.c_char_p
    return instructions().decode()


@functools.cache
def _digest() -> str:
    return hashlib.sha256(b"|".join(source.read_bytes() for source in native.sources())).hexdigest()[:8]
