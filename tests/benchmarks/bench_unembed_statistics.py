"""What the fused unembedding statistics cost beside the bare unembedding product they contain.

Run ``python tests/benchmarks/bench_unembed_statistics.py [--rows 2048 --vocabulary 49152 --width 576]``.
The bare product is ``rows @ weight.T`` by the faster of torch's two CPU libraries, stored whole. Both are timed in
turns, A B A B; the ratio is that of the medians, and its interval spans the ratios of the single rounds. On a machine
with other work the wall clock of two threads says little: ``--threads 1`` and the ratio of processor seconds, which is
reported beside, do better. The tests of the op run first, and on red nothing is timed. Peak extra memory is the growth
of the process's largest resident size during one call, in a process of its own.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch.nn import functional

from workbench_kernels.unembed_statistics import Norm, unembed_statistics

TESTS = Path(__file__).resolve().parents[1] / "kernels" / "test_unembed_statistics.py"
LIMIT_RATIO = 1.3
LIMIT_MEBIBYTES = 64


def make(rows: int, vocabulary: int, width: int, dtype: torch.dtype) -> dict:
    """Arguments of the op with logits of a realistic spread (standard deviation about 3)."""
    generator = torch.Generator().manual_seed(0)
    return {
        "rows": torch.randn(rows, width, generator=generator).to(dtype),
        "weight": (torch.randn(vocabulary, width, generator=generator) * 3 / width**0.5).to(dtype),
        "norm": Norm("rms", torch.ones(width, dtype=dtype)),
        "target": torch.randint(vocabulary, (rows,), generator=generator),
    }


def bare_products(rows: torch.Tensor, weight: torch.Tensor) -> dict:
    """The product alone, by each library that torch has here."""
    products = {"default": lambda: functional.linear(rows, weight)}
    if rows.device.type == "cpu" and torch.backends.mkldnn.is_available():
        products["oneDNN"] = lambda: torch.ops.mkldnn._linear_pointwise(rows, weight, None, "none", [], "")
    return products


def seconds(call) -> tuple[float, float]:
    """Wall-clock seconds and processor seconds of one call."""
    began, began_processor = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - began, time.process_time() - began_processor


def measure(sizes: tuple[int, int, int], dtype: torch.dtype, rounds: int) -> dict:
    """Times of the op and of the bare products, interleaved."""
    arguments = make(*sizes, dtype)
    calls = bare_products(arguments["rows"], arguments["weight"])
    calls["statistics"] = lambda: unembed_statistics(**arguments)
    calls["statistics, no target"] = lambda: unembed_statistics(**{**arguments, "target": None})
    for call in calls.values():
        call()
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].append(seconds(call))
    wall = {name: statistics.median(both[0] for both in values) for name, values in times.items()}
    processor = {name: statistics.median(both[1] for both in values) for name, values in times.items()}
    bare = min((name for name in times if "statistics" not in name), key=wall.__getitem__)
    ratios = [mine[0] / product[0] for mine, product in zip(times["statistics"], times[bare], strict=True)]
    return {
        "dtype": str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "bare": bare,
        "milliseconds": {name: round(value * 1e3) for name, value in wall.items()},
        "ratio": round(wall["statistics"] / wall[bare], 3),
        "ratio_low": round(min(ratios), 3),
        "ratio_high": round(max(ratios), 3),
        "ratio_processor": round(processor["statistics"] / processor[bare], 3),
    }


def extra_mebibytes(sizes: tuple[int, int, int], dtype: torch.dtype) -> float:
    """Growth of the largest resident size by one call, after a call on few rows has loaded what is loaded once."""
    arguments = make(*sizes, dtype)
    unembed_statistics(**{**arguments, "rows": arguments["rows"][:2], "target": arguments["target"][:2]})
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from what is resident now
    before = _peak_kibibytes()
    unembed_statistics(**arguments)
    return (_peak_kibibytes() - before) / 1024


def _peak_kibibytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> int:
    """Test, time, print one JSON line per dtype; the exit status says whether both limits hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--vocabulary", type=int, default=49152)
    parser.add_argument("--width", type=int, default=576)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--memory-of", choices=["float32", "bfloat16"], help="only the peak extra memory, in MiB")
    options = parser.parse_args()
    sizes = (options.rows, options.vocabulary, options.width)
    torch.set_num_threads(options.threads)
    if options.memory_of:
        print(extra_mebibytes(sizes, getattr(torch, options.memory_of)))
        return 0
    if subprocess.run([sys.executable, "-m", "pytest", "-q", str(TESTS)], check=False).returncode:
        print("The tests of the op fail; nothing is timed.")
        return 1
    held = True
    for name in ("float32", "bfloat16"):
        result = measure(sizes, getattr(torch, name), options.rounds)
        shape = ["--rows", str(sizes[0]), "--vocabulary", str(sizes[1]), "--width", str(sizes[2])]
        child = [sys.executable, __file__, "--memory-of", name, "--threads", str(options.threads), *shape]
        result["extra_mebibytes"] = round(float(subprocess.check_output(child, text=True)), 1)
        held &= result["ratio"] <= LIMIT_RATIO and result["extra_mebibytes"] <= LIMIT_MEBIBYTES
        print(json.dumps(result))
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
