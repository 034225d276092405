"""The compiled operations of a pass beside torch's: products, attention and norms.

``python tests/benchmarks/bench_few_rows.py [--model smollm2-135m] [--rounds 9]``. A product is that of all weights of
the model in turn, as a step has it, so that they come from memory; libraries and rows are timed in turns. Bandwidth is
that of the weights read. The tests of the operations run first, and on red nothing is timed.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections import defaultdict

import numpy as np
import torch
from _report import passing, ratio, table, write

import workbench as wb
from workbench_kernels.few_rows import FewRows
from workbench_kernels.rms_norm import rms_norm
from workbench_kernels.tree_attention import TreeVerification

ROWS = (1, 2, 4, 8, 12, 16, 32, 64, 256, 1024)
HELD = (256, 1024, 4096)


def _columns(rows, weight):
    """Rows as columns of the right factor; a lone row is doubled, since two columns take the fast matrix path."""
    if rows.shape[0] == 1:
        return torch.mm(weight, rows.expand(2, -1).contiguous().t()).t()[:1]
    return torch.mm(weight, rows.t()).t()


def _native(rows, weight):
    """Torch's own matrix-vector product of reduced precision, which oneDNN otherwise shadows."""
    with torch.backends.mkldnn.flags(enabled=False):
        return torch.mv(weight, rows[0])[None]


OTHERS = {
    "linear": torch.nn.functional.linear,
    "columns": _columns,
    "one_dnn": lambda rows, weight: torch.ops.mkldnn._linear_pointwise(rows, weight, None, "none", [], ""),
    "native": _native,
}
"""Other ways to the same product, in other libraries."""


def seconds(call, repeats=1):
    """Seconds of one of ``repeats`` calls."""
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def interleaved(calls, rounds, repeats=1):
    """Seconds of every call in every round."""
    times = defaultdict(list)
    for call in calls.values():
        call()
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].append(seconds(call, repeats))
    return times


def weights_of(model):
    """All weights that a decode step multiplies."""
    found = [model.anatomy.unembedding]
    for block in model.anatomy.blocks:
        found += [each.weight for each in (block.query_key_value, block.attention_output, block.up, block.down)]
    return found


def step(product, inputs, weights):
    """All products of a step."""
    for weight in weights:
        product(inputs[weight.shape[1]], weight)


def products(model, rounds):
    """Milliseconds of a step's products by number of rows and library."""
    weights, lines = weights_of(model), []
    size = sum(weight.numel() * weight.element_size() for weight in weights)
    for rows in ROWS:
        inputs = {weight.shape[1]: torch.randn(rows, weight.shape[1]).to(model.dtype) for weight in weights}
        others = {name: call for name, call in OTHERS.items() if name != "native" or rows == 1}
        candidates = {"few_rows": FewRows(model.dtype), **others}
        times = interleaved(
            {name: functools.partial(step, call, inputs, weights) for name, call in candidates.items()}, rounds
        )
        best = min(others, key=lambda name: np.median(times[name]))
        mine = float(np.median(times["few_rows"]))
        lines.append(
            [
                rows,
                f"{mine * 1e3:.1f}",
                f"{size / mine / 1e9:.0f}",
                f"{best}: {np.median(times[best]) * 1e3:.1f}",
                ratio(times[best], times["few_rows"]),
            ]
        )
    head = ["rows", "few rows [ms]", "weights read [GB/s]", "best other [ms]", "ratio [95 %]"]
    return table(head, lines)


def attention(model, rounds):
    """Microseconds of one layer's attention by keys held and tokens verified."""
    block, lines = model.anatomy.blocks[0], []
    for held in HELD:
        buffers = torch.randn(2, 1, block.kv_heads, held + 64, block.head_dim).to(model.dtype)
        keys, values = buffers[:, :, :, :held]
        for tokens in (1, 4, 8, 16, 32):
            query = torch.randn(1, tokens, block.heads, block.head_dim).to(model.dtype).transpose(1, 2)
            chain = torch.ones(tokens, tokens, dtype=torch.bool).tril()
            given = query, keys, values, block.scale
            calls = {name: functools.partial(TreeVerification(chain, name), *given) for name in ("native", "torch")}
            times = interleaved(calls, rounds, repeats=30)
            row = [f"{np.median(times[name]) * 1e6:.0f}" for name in ("native", "torch")]
            lines.append([held, tokens, *row, ratio(times["torch"], times["native"])])
    return table(["keys", "tokens", "native [µs]", "torch [µs]", "ratio [95 %]"], lines)


def with_torch(norm, x):
    """The norm as torch's own operations compute it: under gradients no kernel is asked."""
    with torch.inference_mode(False), torch.enable_grad():
        return norm(x)


@torch.inference_mode()
def norms(model, rounds):
    """Microseconds of one norm."""
    norm, lines = model.anatomy.blocks[0].attention_norm, []
    for rows in (1, 8, 64):
        x = torch.randn(1, rows, len(norm.weight)).to(model.dtype)
        calls = {
            "native": functools.partial(rms_norm, x, norm.weight, norm.eps, norm.late_cast),
            "torch": functools.partial(with_torch, norm, x),
        }
        times = interleaved(calls, rounds, repeats=100)
        row = [f"{np.median(times[name]) * 1e6:.0f}" for name in calls]
        lines.append([rows, *row, ratio(times["torch"], times["native"])])
    return table(["rows", "native [µs]", "torch [µs]", "ratio [95 %]"], lines)


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--model", default="smollm2-135m")
    arguments.add_argument("--rounds", type=int, default=9)
    options = arguments.parse_args()
    passing(*(f"tests/kernels/test_{name}.py" for name in ("few_rows", "rms_norm", "tree_attention")))
    parts = []
    for dtype in ("bfloat16", "float32"):
        model = wb.load(options.model, dtype=dtype, device="cpu")
        for title, measure in (("products of a step", products), ("attention of a layer", attention), ("norm", norms)):
            parts.append(f"## {dtype}: {title}\n\n{measure(model, options.rounds)}")
            print(parts[-1], flush=True)
    note = f"{options.model}, {torch.get_num_threads()} threads, {options.rounds} rounds in turns"
    write("bench_few_rows", note, "\n\n".join(parts))


if __name__ == "__main__":
    main()
