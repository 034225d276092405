"""What watching costs: every probe beside the plain forward pass, and the logit lens beside its bare products.

Run ``python tests/benchmarks/bench_probes.py [--tokens 2048 --rounds 5 --lens-tokens 2048 --lens-rounds 3]``.

Ratios to the plain forward are those of whole ``observe`` calls (start, pass, finish, trace) to the same pass without
probes. The lens is judged against the unembedding products it needs, (layers + 1) x positions rows, by the faster of
torch's two CPU libraries and in chunks, with nothing done with the logits; its own time is that of ``observe`` less
that of the forward. Everything is timed in turns, A B A B; a ratio is the median of the ratios within a round, its
interval spans them. Memory is the largest resident size, sampled every 5 ms in a process of its own, less that of a
process which only runs the forward. The probes' tests run first; on red nothing is timed.
"""

import argparse
import inspect
import itertools
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import torch
from torch.nn import functional

ROOT = Path(__file__).resolve().parents[2]
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
    fastest = min(libraries, key=lambda name: min(seconds(lambda: libraries[name](part)) for _ in range(3)))

    def run():
        for start in range(0, rows, len(part)):
            libraries[fastest](part[: rows - start])

    return fastest, run


def seconds(call):
    """Wall-clock seconds of one call."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def in_turns(calls, rounds):
    """Seconds of every call in every round, after a warm-up of each."""
    for call in calls.values():
        call()
    times = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].append(seconds(call))
    return times


def ratio(above, below):
    """Median, smallest and largest ratio within a round."""
    found = [one / other for one, other in zip(above, below, strict=True)]
    return statistics.median(found), min(found), max(found)


@torch.inference_mode()
def measure(options):
    """Rows of the table: name, milliseconds, ratio, what to, limit."""
    import workbench

    model = workbench.load(options.model, dtype=options.dtype, device="cpu")
    ids, probes = text_of(model, options.tokens), probes_of(model)
    calls = {"forward": lambda: forward(model, ids)}
    for name, probe in probes.items():
        calls[name] = lambda probe=probe: workbench.observe(model, ids, [probe])
    calls["together"] = lambda: workbench.observe(model, ids, list(probes.values()))
    times = in_turns(calls, options.rounds)
    rows = [
        (name, statistics.median(values), *ratio(values, times["forward"]), "forward", LIMITS.get(name))
        for name, values in times.items()
    ]
    if options.lens_tokens:
        ids = text_of(model, options.lens_tokens)
        library, bare = bare_products(model, (model.layers + 1) * len(ids))
        calls = {
            "forward": lambda: forward(model, ids),
            "lens": lambda: workbench.observe(model, ids, [workbench.probes.LogitLens()]),
            "bare": bare,
        }
        times = in_turns(calls, options.lens_rounds)
        own = [lens - plain for lens, plain in zip(times["lens"], times["forward"], strict=True)]
        title = f"bare products ({library}, {len(ids)} tokens)"
        rows.append(("lens", statistics.median(own), *ratio(own, times["bare"]), title, LIMITS["lens"]))
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
    found = {}
    for name in ("forward", "together", *(["lens"] if options.lens_tokens else [])):
        child = [sys.executable, __file__, "--memory-of", name, "--model", options.model, "--dtype", options.dtype]
        child += ["--tokens", str(options.tokens if name != "lens" else options.lens_tokens)]
        found[name] = int(subprocess.check_output(child, text=True).split()[-1]) / 1e9
    return {name: peak - found["forward"] for name, peak in found.items() if name != "forward"}


def table(rows, memory, options):
    """The report in Markdown."""
    lines = [
        f"# Probes on {options.model}, {options.dtype}, {options.tokens} tokens, {torch.get_num_threads()} threads",
        "",
        "Measured wall clock; `together` is all probes that fit the model but the logit lens.",
        "",
        "| what | seconds | ratio (interval) | to | limit | peak memory above the forward, GB (limit 1) |",
        "|---|---|---|---|---|---|",
    ]
    for name, own, middle, low, high, base, limit in rows:
        held = "" if limit is None else f"{limit:g}"
        gigabytes = f"{memory[name]:.2f}" if name in memory else ""
        lines.append(f"| {name} | {own:.2f} | {middle:.2f} ({low:.2f} … {high:.2f}) | {base} | {held} | {gigabytes} |")
    return "\n".join(lines) + "\n"


def main():
    """Test, time, write the table; the exit status says whether every limit holds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--lens-tokens", type=int, default=2048, help="0 leaves the lens out")
    parser.add_argument("--lens-rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "reports" / "bench_probes.md")
    parser.add_argument("--memory-of", choices=["forward", "together", "lens"], help="only the peak resident bytes")
    options = parser.parse_args()
    if options.memory_of:
        print(peak_bytes(options))
        return 0
    if subprocess.run([sys.executable, "-m", "pytest", "-q", "-m", "not bundled", *TESTS], cwd=ROOT).returncode:
        print("The tests of the probes fail; nothing is timed.")
        return 1
    rows, memory = measure(options), gigabytes_above_forward(options)
    report = table(rows, memory, options)
    print(report)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(report)
    held = all(limit is None or middle <= limit for _, _, middle, _, _, _, limit in rows)
    return 0 if held and all(value <= LIMITS["memory"] for value in memory.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
