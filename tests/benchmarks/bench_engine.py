"""The decode loop against transformers' own ``generate``, and against the memory bandwidth of this machine.

``python tests/benchmarks/bench_engine.py [--new-tokens 128] [--rounds 5]``: batch 1, a prompt of 256 tokens of real
text, greedy, same dtype and threads, runs interleaved A B C A B C …; ratios are paired round by round. The tests of the
engine run first, and nothing is reported if one of them fails.
"""

from __future__ import annotations

import argparse
import time

import torch
from _report import passing, ratio, table, write

import workbench as wb
from workbench.cost.hardware import copy_bandwidth
from workbench.engine.compiled import compiled_steps
from workbench.tasks import encode_prompt, load_prompts

PROMPT_TOKENS = 256


def prompt_ids(model):
    """256 tokens of bundled prompts, one after the other."""
    ids = []
    for prompt in load_prompts("summarising"):
        ids += encode_prompt(model.tokenizer, prompt)
    return ids[:PROMPT_TOKENS]


def contenders(model, ids, new):
    """Name -> a function that generates exactly ``new`` tokens."""
    inputs = torch.tensor([ids])

    def transformers_generate():
        model.hf.generate(
            inputs,
            attention_mask=torch.ones_like(inputs),
            max_new_tokens=new,
            min_new_tokens=new,
            do_sample=False,
            pad_token_id=0,
        )

    def engine(compiled):
        return lambda: list(wb.generate(model, ids, max_new_tokens=new, stop_tokens=(), compiled=compiled))

    return {"transformers": transformers_generate, "engine": engine(False), "engine, compiled": engine(True)}


def measure(dtype, new, rounds):
    """Rows of the table for one dtype."""
    model = wb.load("smollm2-135m", dtype=dtype, device="cpu")
    ids = prompt_ids(model)
    runs = contenders(model, ids, new)
    steps = compiled_steps(model.anatomy)
    for run in runs.values():
        run()
    seconds = {name: [] for name in runs}
    for turn in range(rounds):
        names = list(runs)
        for name in names[turn % 3 :] + names[: turn % 3]:
            start = time.perf_counter()
            runs[name]()
            seconds[name].append(time.perf_counter() - start)
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.hf.parameters())
    limit = copy_bandwidth(torch.get_num_threads()) / weights
    rows = []
    for name, times in seconds.items():
        rate = new / sorted(times)[len(times) // 2]
        rows.append([dtype, name, f"{rate:.1f}", ratio(seconds["transformers"], times), f"{rate / limit:.2f}"])
    note = steps.failure or f"compiling took {steps.warm_up_seconds:.1f} s"
    return rows, f"{dtype}: {note}; arithmetic: {model.arithmetic}"


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--new-tokens", type=int, default=128)
    arguments.add_argument("--rounds", type=int, default=5)
    options = arguments.parse_args()
    passing("tests/engine")
    rows, notes = [], []
    for dtype in ("float32", "bfloat16"):
        found, note = measure(dtype, options.new_tokens, options.rounds)
        rows, notes = rows + found, [*notes, note]
    head = ["dtype", "loop", "tokens/s (median)", "ratio to transformers [95 %]", "share of bandwidth limit"]
    write("bench_engine", f"{torch.get_num_threads()} threads; " + "; ".join(notes), table(head, rows))


if __name__ == "__main__":
    main()
