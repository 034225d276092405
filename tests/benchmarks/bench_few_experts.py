"""Experts of a mixture beside dense products of as many weights, and steps with more and fewer experts on.

``python tests/benchmarks/bench_few_experts.py [--rounds 9]``. The products are those of all MLPs of a step in turn, so
that weights come from memory: the experts of ``smollm2-moe`` by the compiled kernel and by single steps, against the
dense MLPs of ``smollm2-135m``, for each byte that is read. Steps are whole ones, timed in turns. The kernel's tests run
first, and on red nothing is timed.
"""

from __future__ import annotations

import argparse
import functools

import numpy as np
import torch
from _report import passing, ratio, table, write
from bench_few_rows import interleaved

import workbench as wb
from workbench.models import split
from workbench.models.experts import _expert_by_expert, _pair_by_pair

ON = (4, 8, 16, 24, 32)


def sparse(moe):
    return [block for block in moe.anatomy.blocks if block.router is not None]


def dense(model, x):
    """All MLPs of a step, less their norms."""
    for block in model.anatomy.blocks:
        block.down(block.activation(block.up(x), True))


def experts(moe, x, chosen, way):
    """The chosen experts of all layers, the same number in each."""
    for block in sparse(moe):
        router = block.router
        weights, indices = torch.full(chosen.shape, 1 / 32, dtype=x.dtype), chosen
        if way == "kernel":
            _pair_by_pair(x, weights, indices, router, block.activation.kind, router.experts.__getitem__)
        else:
            _expert_by_expert(x, weights, indices, router, block.activation, router.experts.__getitem__)


@torch.inference_mode()
def products(model, moe, rounds):
    """Milliseconds of a step's products by experts on, and those of dense ones for as many bytes."""
    x, lines = torch.randn(1, model.anatomy.width).to(model.dtype), []
    held = sum(block.up.bytes(1) + block.down.bytes(1) for block in model.anatomy.blocks)
    for on in ON:
        chosen = torch.randperm(32, generator=torch.Generator().manual_seed(on))[None, :on]
        read = sum(on * block.router.experts[0].bytes(1) for block in sparse(moe))
        calls = {"dense": functools.partial(dense, model, x)}
        calls |= {way: functools.partial(experts, moe, x, chosen, way) for way in ("kernel", "steps")}
        times = interleaved(calls, rounds)
        share = np.multiply(times["dense"], read / held)
        row = [f"{np.median(each) * 1e3:.2f}" for each in (times["kernel"], times["steps"], share)]
        lines.append([on, *row, ratio(times["kernel"], share)])
    return table(["experts on", "kernel [ms]", "steps [ms]", "dense, as many bytes [ms]", "kernel / dense"], lines)


def steps(model, moe, rounds):
    """Milliseconds of a decode step with so many experts on, and of the dense model."""
    prompt = moe.encode("The capital of France is")

    def some(which, on=None):
        if on:
            split.choose(which, on)
        list(wb.generate(which, prompt, max_new_tokens=16, stop_tokens=()))

    own = moe.hf.config.num_experts_per_tok
    calls = {f"{on} experts": functools.partial(some, moe, on) for on in ON} | {"dense": functools.partial(some, model)}
    try:
        times = interleaved(calls, rounds)
    finally:
        split.choose(moe, own)
    all_on = times[f"{ON[-1]} experts"]
    lines = [[name, f"{np.median(found) / 16 * 1e3:.1f}", ratio(all_on, found)] for name, found in times.items()]
    return table(["", "step [ms]", "all on / this [95 %]"], lines)


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--rounds", type=int, default=9)
    options = arguments.parse_args()
    passing("tests/kernels/test_few_experts.py")
    parts = []
    for dtype in ("bfloat16", "float32"):
        model, moe = (wb.load(name, dtype=dtype, device="cpu") for name in ("smollm2-135m", "smollm2-moe"))
        for title, measure in (("experts of a step", products), ("steps", steps)):
            parts.append(f"## {dtype}: {title}\n\n{measure(model, moe, options.rounds)}")
            print(parts[-1], flush=True)
    write(
        "bench_few_experts", f"{torch.get_num_threads()} threads, {options.rounds} rounds in turns", "\n\n".join(parts)
    )


if __name__ == "__main__":
    main()
