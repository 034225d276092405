"""Neighbouring blocks of a model in one call on the CPU: what lies between two attentions, and attention itself.

A step of batch one starts some fifteen small operations in every block, each of which takes longer to start than to do.
Here the weights of all blocks are laid out once, and a call runs rows through as many of them as it is told, in one
parallel region; the sums are those of the kernels of single steps, bit for bit.
"""

import ctypes
import functools
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from workbench_kernels.activation import KINDS
from workbench_kernels.dispatch import BackendUnavailable
from workbench_kernels.native import function

__all__ = ["BackendUnavailable", "BlockWeights", "Blocks", "NormWeights", "Table"]

_NAMES = {torch.float32: "blocks_float32", torch.bfloat16: "blocks_bfloat16"}


@dataclass
class NormWeights:
    """A root-mean-square norm: ``weight`` [width], ``eps`` and ``late`` as in :mod:`workbench_kernels.rms_norm`."""

    weight: Tensor
    eps: float
    late: bool = False


@dataclass
class BlockWeights:
    """One block: norms where it has them, linear maps as (weight [outputs, inputs], bias [outputs] or None), sizes.

    Attributes
    ----------
    query_key_value, attention_output, up, down : (Tensor, Tensor or None), or None
        Of queries, keys and values side by side; ``up`` begins with the gate where there is one. The first two are None
        of a block without attention, the others of one without an MLP.
    heads, kv_heads, head_dim : int
    scale : float
    activation : str
        One of :data:`workbench_kernels.activation.KINDS`.
    gated : bool
    attention_norm, attention_post_norm, query_norm, key_norm, mlp_norm, mlp_post_norm : NormWeights, optional
    rope : int
        Which of the tables that a call is given turns queries and keys; -1 for none.
    window : int
        Keys that a token of a chain sees, its own included; 0 for all.
    softcap : float
        Of scores; 0 for none.
    sinks : float32 Tensor [heads], optional
    residual_multiplier : float
    """

    query_key_value: tuple[Tensor, Tensor | None] | None
    attention_output: tuple[Tensor, Tensor | None] | None
    up: tuple[Tensor, Tensor | None] | None
    down: tuple[Tensor, Tensor | None] | None
    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    activation: str
    gated: bool
    attention_norm: NormWeights | None = None
    attention_post_norm: NormWeights | None = None
    query_norm: NormWeights | None = None
    key_norm: NormWeights | None = None
    mlp_norm: NormWeights | None = None
    mlp_post_norm: NormWeights | None = None
    rope: int = -1
    window: int = 0
    softcap: float = 0.0
    sinks: Tensor | None = None
    residual_multiplier: float = field(default=1.0)

    @property
    def hidden(self) -> int:
        """Neurons of the MLP."""
        return 0 if self.down is None else self.down[0].shape[1]

    def why_not(self, dtype: torch.dtype, width: int) -> str:
        """Why the kernel cannot take it; empty where it can."""
        for name, pair in (("attention", _MAPS[:2]), ("MLP", _MAPS[2:])):
            if len({getattr(self, each) is None for each in pair}) > 1:
                return f"its {name} has one of {' and '.join(pair)}, and not the other"
        hidden = self.hidden
        heads, both = self.heads * self.head_dim, (self.heads + 2 * self.kv_heads) * self.head_dim
        maps = {
            "query_key_value": (self.query_key_value, both, width),
            "attention_output": (self.attention_output, width, heads),
            "up": (self.up, hidden * (2 if self.gated else 1), width),
            "down": (self.down, width, hidden),
        }
        for name, (linear, outputs, inputs) in maps.items():
            if linear is None:
                continue
            weight, bias = linear
            if weight.shape != (outputs, inputs):
                return f"{name} is {list(weight.shape)}, not {[outputs, inputs]}"
            if not _plain(weight, dtype) or (
                bias is not None and not (_plain(bias, dtype) and bias.numel() == outputs)
            ):
                return f"{name} is not contiguous {dtype} on the CPU"
        sizes = dict.fromkeys(("attention_norm", "attention_post_norm", "mlp_norm", "mlp_post_norm"), width)
        for name, size in {**sizes, "query_norm": self.head_dim, "key_norm": self.head_dim}.items():
            norm = getattr(self, name)
            if norm is not None and (
                norm.weight.shape != (size,) or not (_plain(norm.weight, dtype) or _plain(norm.weight, torch.float32))
            ):
                return f"{name} is not a contiguous [{size}]"
        if self.sinks is not None and not (_plain(self.sinks, torch.float32) and self.sinks.numel() == self.heads):
            return "sinks are not float32, one for each head"
        return "" if self.activation in KINDS else f"there is no kernel for {self.activation}"


@dataclass
class Table:
    """Cosine and signed sine [rows, 1, width] of the rows of a call."""

    cosine: Tensor
    sine: Tensor


def _plain(tensor: Tensor, dtype: torch.dtype) -> bool:
    return tensor.dtype == dtype and tensor.is_contiguous() and tensor.device.type == "cpu"


class _Norm(ctypes.Structure):
    _fields_ = (
        ("weight", ctypes.c_void_p),
        ("wide", ctypes.c_int64),
        ("late", ctypes.c_int64),
        ("eps", ctypes.c_double),
    )


class _Linear(ctypes.Structure):
    _fields_ = (("weight", ctypes.c_void_p), ("bias", ctypes.c_void_p))


_NORMS = ("attention_norm", "attention_post_norm", "query_norm", "key_norm", "mlp_norm", "mlp_post_norm")
_MAPS = ("query_key_value", "attention_output", "up", "down")
_SIZES = ("heads", "kv_heads", "head_dim", "hidden", "window", "rope", "activation", "gated")
_FACTORS = ("scale", "softcap", "residual_multiplier")


class _Block(ctypes.Structure):
    _fields_ = (
        *((name, _Norm) for name in _NORMS),
        *((name, _Linear) for name in _MAPS),
        ("sinks", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in _SIZES),
        *((name, ctypes.c_double) for name in _FACTORS),
    )


class _Cache(ctypes.Structure):
    _fields_ = (
        ("keys", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
        ("head", ctypes.c_int64),
        ("held", ctypes.c_int64),
    )


class _Table(ctypes.Structure):
    _fields_ = (
        ("cosine", ctypes.c_void_p),
        ("sine", ctypes.c_void_p),
        ("width", ctypes.c_int64),
        ("wide", ctypes.c_int64),
    )


@functools.cache
def compiled(dtype: torch.dtype, *flags: str) -> ctypes._CFuncPtr:
    """The function for a dtype; :class:`BackendUnavailable` where there is none."""
    if dtype not in _NAMES:
        raise BackendUnavailable(f"there is no compiled block for {dtype}; float32 and bfloat16 have one")
    pointer, number = ctypes.c_void_p, ctypes.c_long
    arguments = [pointer, pointer, number, pointer, pointer, number, number, pointer, pointer, number]
    return function(_NAMES[dtype], arguments, *flags)


class Blocks:
    """The blocks of one model, laid out once.

    Parameters
    ----------
    dtype : torch.dtype
        float32 or bfloat16.
    width : int
        Of the residual stream.
    blocks : sequence of BlockWeights or None
        None for those that are not to run here.
    *flags : str
        For the compiler, after ``-march=native``.

    Raises
    ------
    ValueError
        If one does not fit; see :meth:`BlockWeights.why_not`.
    BackendUnavailable
        If nothing can be compiled here, or there is none for the dtype.

    Attributes
    ----------
    caches : ctypes array
        For every block of the next call where keys and values are: ``keys`` and ``values`` (addresses of the first
        entry), ``head`` (numbers from one KV head to the next) and ``held`` (entries before those of the call, for
        which there must be room). To be filled in before the call.
    """

    def __init__(self, dtype: torch.dtype, width: int, blocks: Sequence[BlockWeights | None], *flags: str) -> None:
        self._run, self._width = compiled(dtype, *flags), width
        # What the addresses are of stays alive.
        self._kept = list(blocks)
        self._blocks = (_Block * len(blocks))()
        self.caches = (_Cache * len(blocks))()
        for index, (block, to) in enumerate(zip(blocks, self._blocks, strict=True)):
            if block is None:
                continue
            if reason := block.why_not(dtype, width):
                raise ValueError(f"block {index}: {reason}")
            _fill(to, block)

    def __call__(
        self,
        first: int,
        end: int,
        x: Tensor,
        tables: Sequence[Table],
        marks: Tensor | None = None,
    ) -> Tensor:
        """Run rows through the blocks ``first`` to ``end``; their keys and values are written behind those held.

        Parameters
        ----------
        first, end : int
        x : Tensor [rows, width]
        tables : sequence of Table
        marks : uint8 Tensor [rows, rows], optional
            1 where a row sees another; all keys before them are visible. By default a chain.

        Returns
        -------
        Tensor [rows, width]
        """
        x = x.contiguous()
        out = torch.empty_like(x)
        laid = (_Table * max(1, len(tables)))()
        kept = [(table.cosine.contiguous(), table.sine.contiguous()) for table in tables]
        for to, (cosine, sine) in zip(laid, kept, strict=False):
            to.cosine, to.sine, to.width = cosine.data_ptr(), sine.data_ptr(), cosine.shape[-1]
            to.wide = cosine.dtype == torch.float32
        marks = None if marks is None else marks.contiguous()
        self._run(
            ctypes.addressof(self._blocks[first]),
            ctypes.addressof(self.caches[first]),
            end - first,
            x.data_ptr(),
            out.data_ptr(),
            x.shape[0],
            self._width,
            ctypes.addressof(laid),
            None if marks is None else marks.data_ptr(),
            torch.get_num_threads(),
        )
        return out


def _fill(to: _Block, block: BlockWeights) -> None:
    for name in _NORMS:
        norm = getattr(block, name)
        if norm is not None:
            wide = norm.weight.dtype == torch.float32
            setattr(to, name, _Norm(norm.weight.data_ptr(), wide, norm.late, norm.eps))
    for name in _MAPS:
        linear = getattr(block, name)
        if linear is not None:
            weight, bias = linear
            setattr(to, name, _Linear(weight.data_ptr(), None if bias is None else bias.data_ptr()))
    to.sinks = None if block.sinks is None else block.sinks.data_ptr()
    to.hidden, to.activation = block.hidden, KINDS.index(block.activation)
    for name in ("heads", "kv_heads", "head_dim", "window", "rope", "gated", *_FACTORS):
        setattr(to, name, getattr(block, name))
