"""The decode loop against transformers' own ``generate``, and against the memory bandwidth of this machine.

``python tests/benchmarks/bench_engine.py [--new-tokens 128] [--rounds 5] [--device cpu] [--model smollm2-135m]
[--without-compiled] [--untested]``: batch 1, a prompt of 256 tokens of real text, greedy, same dtype and threads, runs
interleaved A B C A B C …; ratios are paired round by round, and the report is written after every round. The tests of
the engine run first, and nothing is reported if one of them fails.
"""

from __future__ import annotations

import argparse
import time

import torch
from _report import passing, ratio, table, write

import workbench as wb
from workbench.cost.hardware import copy_bandwidth
from workbench.engine.compiled import compiled_steps
from workbench.models.device import wait
from workbench.studies.compatibility_trial import Trial, model_of
from workbench.tasks import encode_prompt, load_prompts

PROMPT_TOKENS = 256


def prompt_ids(model):
    """256 tokens of bundled prompts, one after the other; drawn ones of a model without a tokenizer."""
    ids = []
    if model.tokenizer is None:
        return Trial(model).prompt
    for prompt in load_prompts("summarising"):
        ids += encode_prompt(model.tokenizer, prompt)
    return ids[:PROMPT_TOKENS]


def bandwidth(device):
    """Bytes that a large copy reads and writes in a second."""
    if device.type == "cpu":
        return copy_bandwidth(torch.get_num_threads())
    source = torch.ones(1 << 28, device=device)
    target, best = torch.empty_like(source), float("inf")
    for _ in range(5):
        wait(device)
        start = time.perf_counter()
        target.copy_(source)
        wait(device)
        best = min(best, time.perf_counter() - start)
    return 2 * source.numel() * source.element_size() / best


def loaded(name, dtype, device):
    """A model by name, or a tiny one made in memory."""
    if name.startswith("tiny"):
        return model_of(name).variant(device=device)
    return wb.load(name, dtype=dtype, device=device)


def contenders(model, ids, new, with_compiled):
    """Name -> a function that generates exactly ``new`` tokens."""
    inputs = torch.tensor([ids], device=model.device)

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

    runs = {"transformers": transformers_generate, "engine": engine(False)}
    return runs | {"engine, compiled": engine(True)} if with_compiled else runs


def measure(options, dtype):
    """Rows of the table for one dtype, after every round, and a note."""
    model, new = loaded(options.model, dtype, options.device), options.new_tokens
    runs = contenders(model, prompt_ids(model), new, not options.without_compiled)
    note = f"{dtype}: arithmetic: {model.arithmetic}"
    if not options.without_compiled:
        steps = compiled_steps(model.anatomy)
        note += f"; {steps.failure or f'compiling took {steps.warm_up_seconds:.1f} s'}"
    for run in runs.values():
        run()
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.hf.parameters())
    limit = bandwidth(model.device) / weights
    seconds = {name: [] for name in runs}
    for turn in range(options.rounds):
        names = list(runs)
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            wait(model.device)
            start = time.perf_counter()
            runs[name]()
            wait(model.device)
            seconds[name].append(time.perf_counter() - start)
        rows = []
        for name, times in seconds.items():
            rate = new / sorted(times)[len(times) // 2]
            rows.append([dtype, name, f"{rate:.1f}", ratio(seconds["transformers"], times), f"{rate / limit:.2f}"])
        yield rows, f"{note}; {turn + 1} of {options.rounds} rounds"


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--new-tokens", type=int, default=128)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--model", default="smollm2-135m")
    arguments.add_argument("--device", default="cpu")
    arguments.add_argument("--without-compiled", action="store_true")
    arguments.add_argument("--untested", action="store_true")
    options = arguments.parse_args()
    if not options.untested:
        passing("tests/engine")
    head = ["dtype", "loop", "tokens/s (median)", "ratio to transformers [95 %]", "share of bandwidth limit"]
    rows, notes = [], []
    for dtype in ("float32", "bfloat16") if not options.model.startswith("tiny") else ("float32",):
        found, note = [], ""
        for found, note in measure(options, dtype):
            told = f"{options.device}, {torch.get_num_threads()} threads; " + "; ".join([*notes, note])
            write("bench_engine", told, table(head, rows + found))
        rows, notes = rows + found, [*notes, note]


if __name__ == "__main__":
    main()
