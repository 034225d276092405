"""What hardware can do: a table from data sheets, and this machine, measured.

Operations are dense (no structured sparsity) and bytes are those of the main memory. float32 means the plain 32-bit
units, which is what torch uses unless TF32 is asked for, and float64 the plain 64-bit ones.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from workbench.errors import SettingError

THIS_CPU = "this CPU"


@dataclass(frozen=True)
class Hardware:
    """One machine on which a run can be modelled.

    Attributes
    ----------
    name : str
    flops : dict of str to float
        Peak operations by dtype [FLOP/s].
    bandwidth : float
        Of the memory that holds weights and cache [byte/s].
    source : str
        The data sheet, or "measured".
    """

    name: str
    flops: dict[str, float]
    bandwidth: float
    source: str

    def peak(self, dtype: str) -> float:
        """Peak operations of a dtype [FLOP/s].

        Raises
        ------
        SettingError
            If the dtype is not in the table.
        """
        if dtype not in self.flops:
            raise SettingError(f"{self.name} has no figure for {dtype}: known are {', '.join(self.flops)}")
        return self.flops[dtype]


def _sheet(name: str, half: float, single: float, double: float, bandwidth: float, source: str) -> Hardware:
    """A row from TFLOP/s in bfloat16 and float16 (with float32 sums), in float32 and in float64, and GB/s."""
    flops = {"bfloat16": half * 1e12, "float16": half * 1e12, "float32": single * 1e12, "float64": double * 1e12}
    return Hardware(name, flops, bandwidth * 1e9, source)


_ROWS = (
    _sheet("H100 SXM", 989.4, 66.9, 33.5, 3350, "NVIDIA H100 Tensor Core GPU data sheet and white paper, 2022"),
    _sheet("A100 SXM 80GB", 312, 19.5, 9.7, 2039, "NVIDIA A100 80GB Tensor Core GPU data sheet, 2021"),
    _sheet("RTX 4090", 165.2, 82.6, 1.29, 1008, "NVIDIA Ada GPU architecture white paper, 2022"),
)
DATA_SHEETS: dict[str, Hardware] = {row.name: row for row in _ROWS}
NAMES = (THIS_CPU, *DATA_SHEETS)


def hardware(name: str, dtype: str = "float32") -> Hardware:
    """The hardware of a name: a row of the table, or ``"this CPU"``, measured for ``dtype``.

    Raises
    ------
    SettingError
        If there is no such hardware; it lists what there is.
    """
    if name == THIS_CPU:
        peak = matmul_peak(dtype, torch.get_num_threads())
        return Hardware(THIS_CPU, {dtype: peak}, copy_bandwidth(torch.get_num_threads()), "measured")
    if name not in DATA_SHEETS:
        raise SettingError(f"there is no hardware named {name!r}; known: {', '.join(NAMES)}")
    return DATA_SHEETS[name]


def hardware_table(chosen: Iterable[str | Hardware] | None = None, dtype: str = "float32") -> list[Hardware]:
    """Rows by name, or the whole table with this CPU first; a :class:`Hardware` of one's own is taken as it is."""
    return [
        each if isinstance(each, Hardware) else hardware(each, dtype) for each in (NAMES if chosen is None else chosen)
    ]


@functools.lru_cache(maxsize=8)
def copy_bandwidth(threads: int, size: int = 1 << 28) -> float:
    """Bytes read and written per second by a large copy on this CPU with torch's threads.

    Parameters
    ----------
    threads : int
        Threads torch has now; another number is measured anew.
    size : int
        Bytes copied; far more than the caches hold.
    """
    source = torch.ones(size // 4)
    target = torch.empty_like(source)
    return 2 * size / _fast(lambda: target.copy_(source))


@functools.lru_cache(maxsize=8)
def matmul_peak(dtype: str, threads: int, sizes: tuple[int, ...] = (512, 1024)) -> float:
    """Operations per second of a square product on this CPU with torch's threads [FLOP/s].

    The larger size is left out where the smaller one says that it would take too long, as float16 does on a CPU
    without units for it.
    """
    best = 0.0
    for size in sizes:
        if best and 2 * size**3 / best > 0.5:
            break
        left = torch.ones(size, size, dtype=getattr(torch, dtype))
        right = left.clone()
        best = max(best, 2 * size**3 / _fast(lambda left=left, right=right: left @ right))
    return best


def _fast(work: Callable[[], object], budget: float = 0.4) -> float:
    """Seconds of a fast call: the second fastest of five to sixteen, after one that is not counted.

    Not the fastest: on a virtual machine a clock may jump, and one wrong reading would be taken for the peak.
    """
    work()
    seconds: list[float] = []
    while len(seconds) < 5 or (sum(seconds) < budget and len(seconds) < 16):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return sorted(seconds)[1]
