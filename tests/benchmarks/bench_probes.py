"""What watching costs: every probe beside the plain forward pass, and the logit lens beside its bare products.

Run ``python tests/benchmarks/bench_probes.py [--tokens 2048 --rounds 5 --lens-tokens 2048 --lens-rounds 3]``.

Ratios to the plain forward are those of whole ``observe`` calls (start, pass, finish, trace) to the same pass without
probes. The lens is judged against the unembedding products it needs, (layers + 1) x positions rows, by the faster of
torch's two CPU libraries and in chunks, with nothing done with the logits; its own time is that of ``observe`` less
that of the forward. Everything is timed in turns, A B A B; a ratio is the median of the ratios within a round, its
interval spans them. Processor time stands beside it: on a machine that others use it says more, if the run has one
thread (``OMP_NUM_THREADS=1``; more threads count their waiting). Memory is the largest resident size, sampled every 5
ms in a process of its own, less that of a process which only runs the forward. The probes' tests run first; on red
nothing is timed.
"""

import argparse
import inspect
import itertools
import math
import subprocess
import sys
import threading
import time

import numpy as np
import psutil
import torch
from _report import passing, table, write
from torch.nn import functional

TESTS = ["tests/probes", "tests/test_contract_probes.py", "tests/studies/test_observe.py"]
LIMITS = {"together": 2.0, "lens": 1.3, "memory": 1.0}  # ratio, ratio, GB


def text_of(model, tokens):
    """Token ids of real text: the standard library's own source."""
    ids = model.tokenizer(inspect.getsource(argparse)[: 6 * tokens])["input_ids"]
    return list(itertools.islice(itertools.cycle(ids), tokens))


def probes_of(model):
    """All probes but the lens that fit the model, by name."""
    from workbench import probes

    kinds = [probes.AttentionSparsity, probes.LayerSimilarity, probes.ResidualContribution]
    if any(block.router is not None for block in model.anatomy.blocks):
        kinds.append(probes.ExpertCoactivation)
    return {kind.name: kind() for kind in kinds}


def forward(model, ids):
    """The pass that probes ride on, alone."""
    from workbench.engine.decoder import Decoder

    Decoder(model).prefill(ids, logits="none")


def bare_products(model, rows):
    """The lens's products alone: 512 rows at a time, by each library that torch has here."""
    weight = model.anatomy.unembedding
    part = torch.randn(min(512, rows), model.anatomy.width).to(weight)
    libraries = {"torch's default": lambda x: functional.linear(x, weight)}
    if weight.device.type == "cpu" and torch.backends.mkldnn.is_available():
        libraries["oneDNN"] = lambda x: torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    # processor time: the choice must not hang on who else is using the machine
    fastest = min(libraries, key=lambda name: min(seconds(lambda: libraries[name](part))[1] for _ in range(5)))

    def run():
        for start in range(0, rows, len(part)):
            libraries[fastest](part[: rows - start])

    return fastest, run


def seconds(call):
    """Wall-clock and processor seconds of one call."""
    wall, processor = time.perf_counter(), time.process_time()
    call()
    return np.array((time.perf_counter() - wall, time.process_time() - processor))


def in_turns(calls, rounds):
    """Seconds [rounds, 2] of every call, after a warm-up of each."""
    for call in calls.values():
        call()
    times = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].append(seconds(call))
    return {name: np.array(values) for name, values in times.items()}


def row(name, own, base, title):
    """One line of the table: name, seconds, wall-clock ratio with its interval, processor ratio, what to."""
    ratios = own / base
    wall = ratios[:, 0]
    return name, np.median(own[:, 0]), np.median(wall), wall.min(), wall.max(), np.median(ratios[:, 1]), title


@torch.inference_mode()
def measure(options):
    """The lines of the table."""
    import workbench

    model = workbench.load(options.model, dtype=options.dtype, device="cpu")
    ids, probes = text_of(model, options.tokens), probes_of(model)
    calls = {"forward": lambda: forward(model, ids)}
    for name, probe in probes.items():
        calls[name] = lambda probe=probe: workbench.observe(model, ids, [probe])
    calls["together"] = lambda: workbench.observe(model, ids, list(probes.values()))
    times = in_turns(calls, options.rounds)
    rows = [row(name, values, times["forward"], "forward") for name, values in times.items()]
    if options.lens_tokens:
        ids = text_of(model, options.lens_tokens)
        library, bare = bare_products(model, (model.layers + 1) * len(ids))
        calls = {
            "forward": lambda: forward(model, ids),
            "lens": lambda: workbench.observe(model, ids, [workbench.probes.LogitLens()]),
            "bare": bare,
        }
        times = in_turns(calls, options.lens_rounds)
        title = f"bare products ({library}, {len(ids)} tokens)"
        rows.append(row("lens", times["lens"] - times["forward"], times["bare"], title))
    return rows


def peak_bytes(options):
    """Largest resident size of this process while it runs what ``options.memory_of`` names."""
    import workbench

    model = workbench.load(options.model, dtype=options.dtype, device="cpu")
    ids, process, peak, done = text_of(model, options.tokens), psutil.Process(), 0, threading.Event()
    forward(model, ids[:64])
    wanted = {"together": list(probes_of(model).values()), "lens": [workbench.probes.LogitLens()]}

    def sample():
        nonlocal peak
        while not done.is_set():
            peak = max(peak, process.memory_info().rss)
            time.sleep(0.005)

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        if options.memory_of == "forward":
            forward(model, ids)
        else:
            workbench.observe(model, ids, wanted[options.memory_of])
    finally:
        done.set()
        sampler.join()
    return peak


def gigabytes_above_forward(options):
    """GB that the probes together, and the lens, take above the plain forward."""

    def peak(name, tokens):
        child = [sys.executable, __file__, "--memory-of", name, "--model", options.model, "--dtype", options.dtype]
        return int(subprocess.check_output([*child, "--tokens", str(tokens)], text=True).split()[-1]) / 1e9

    sizes = {"together": options.tokens, "lens": options.lens_tokens}
    below = {tokens: peak("forward", tokens) for tokens in set(sizes.values()) if tokens}
    return {name: peak(name, tokens) - below[tokens] for name, tokens in sizes.items() if tokens}


def report(rows, memory):
    """The table in Markdown."""
    head = ["what", "seconds", "ratio (interval)", "by processor time", "to", "limit", "GB above the forward (limit 1)"]
    lines = []
    for name, own, middle, low, high, processor, base in rows:
        cells = [name, f"{own:.2f}", f"{middle:.2f} ({low:.2f} … {high:.2f})", f"{processor:.2f}", base]
        limit, gigabytes = LIMITS.get(name), memory.get(name)
        cells += ["" if limit is None else f"{limit:g}", "" if gigabytes is None else f"{gigabytes:.2f}"]
        lines.append(cells)
    return table(head, lines)


def main():
    """Test, time, write the table; the exit status says whether every limit holds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--lens-tokens", type=int, default=2048, help="0 leaves the lens out")
    parser.add_argument("--lens-rounds", type=int, default=3)
    parser.add_argument("--memory-of", choices=["forward", "together", "lens"], help="only the peak resident bytes")
    options = parser.parse_args()
    if options.memory_of:
        print(peak_bytes(options))
        return 0
    passing("-m", "not bundled", *TESTS)
    rows, memory = measure(options), gigabytes_above_forward(options)
    note = (
        f"{options.model}, {options.dtype}, {options.tokens} tokens, {torch.get_num_threads()} threads. Measured wall "
        "clock; `together` is all probes that fit the model but the logit lens."
    )
    write("bench_probes", note, report(rows, memory))
    held = all(middle <= LIMITS.get(name, math.inf) for name, _, middle, *_ in rows)
    return 0 if held and all(value <= LIMITS["memory"] for value in memory.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
