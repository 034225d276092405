"""A decode step against its products alone, verification of some rows against one, and prompts.

``python tests/benchmarks/bench_speed.py [--rounds 9] [--prompts 1000 2000 4000] [--gguf MODEL.gguf] [--busy 2]
[--untested]``: the bundled model in bfloat16, a prompt of 256 tokens of real text, 128 new tokens, greedy, beside
transformers with the same threads and token ids. All are measured in turns, round by round; ratios are paired.
``--gguf`` names the same weights in bf16 for llama.cpp, which is then measured too (``pip install llama-cpp-python``;
the file is made by llama.cpp's ``convert_hf_to_gguf.py --outtype bf16``). ``--busy`` starts so many processes that keep
a core busy each, and decodes beside them too.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import time
from collections import defaultdict
from statistics import median

import torch
from _report import passing, ratio, table, write
from bench_engine import prompt_ids

import workbench as wb
from workbench.engine.decoder import Decoder

NEW, ROWS = 128, (1, 8, 16)


class LlamaCpp:
    """The same weights in llama.cpp, by its Python binding."""

    def __init__(self, path: str, context: int, threads: int) -> None:
        from llama_cpp import Llama

        self.llama = Llama(
            path, n_ctx=context, n_threads=threads, n_threads_batch=threads, n_batch=2048, n_ubatch=512, verbose=False
        )

    def prefill(self, ids: list[int]) -> None:
        self.llama.reset()
        self.llama.eval(ids)

    def decode(self, ids: list[int]) -> list[int]:
        """Greedy tokens after a prompt; what is timed is all but the prompt."""
        self.prefill(ids)
        out, self.seconds = [], time.perf_counter()
        for _ in range(NEW):
            out.append(self.llama.sample(temp=0.0, repeat_penalty=1.0))
            self.llama.eval(out[-1:])
        self.seconds = time.perf_counter() - self.seconds
        return out


class Measured:
    """Everything that is timed, by name."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.model = wb.load("smollm2-135m", dtype="bfloat16", device="cpu")
        self.ids, self.options = prompt_ids(self.model), options
        threads = torch.get_num_threads()
        self.llama = (
            LlamaCpp(options.gguf, 256 + max(options.prompts, default=0) + NEW, threads) if options.gguf else None
        )
        self.decoder = Decoder(self.model, NEW)
        self.decoder.prefill(self.ids)
        blocks = self.model.anatomy.blocks
        maps = [each for b in blocks for each in (b.query_key_value, b.attention_output, b.up, b.down)]
        self.maps = [*maps, self.model.anatomy.head]
        drawn = torch.Generator().manual_seed(0)
        self.long = {size: torch.randint(100, 40000, (size,), generator=drawn).tolist() for size in options.prompts}

    def decoding(self) -> float:
        """Seconds a step of plain decoding, the median of a text's."""
        steps = wb.generate(self.model, self.ids, max_new_tokens=NEW, stop_tokens=())
        return median(step.seconds for step in list(steps)[1:])

    @torch.inference_mode()
    def transformers(self, new: int = NEW) -> float:
        """The same of transformers' own forward, with its cache."""
        out = self.model.hf(torch.tensor([self.ids]), use_cache=True)
        seconds = []
        for _ in range(new):
            start = time.perf_counter()
            out = self.model.hf(out.logits[:, -1:].argmax(-1), past_key_values=out.past_key_values, use_cache=True)
            seconds.append(time.perf_counter() - start)
        return median(seconds)

    def llama_cpp(self) -> float:
        self.llama.decode(self.ids)
        return self.llama.seconds / NEW

    @torch.inference_mode()
    def products(self, rows: int) -> float:
        """Every linear map of the model with so many rows, and nothing else; the median of ten."""
        inputs = {each.weight.shape[1]: torch.randn(1, rows, each.weight.shape[1]).bfloat16() for each in self.maps}

        def all_of_them() -> None:
            for each in self.maps:
                each(inputs[each.weight.shape[1]])

        return timed(all_of_them, 10)

    def verification(self, rows: int) -> float:
        """A forward of so many tokens with logits of all, of which none is kept; the median of ten."""
        tokens = self.ids[:rows]

        def forward() -> None:
            self.decoder.forward(tokens, logits="all")
            self.decoder.commit(rows, [])

        return timed(forward, 10)

    def prefill(self, size: int) -> float:
        return timed(lambda: Decoder(self.model, NEW).prefill(self.long[size]), 1)

    @torch.inference_mode()
    def transformers_prefill(self, size: int) -> float:
        ids = torch.tensor([self.long[size]])
        return timed(lambda: self.model.hf(ids, use_cache=True, logits_to_keep=1), 1)

    def llama_prefill(self, size: int) -> float:
        return timed(lambda: self.llama.prefill(self.long[size]), 1)


def timed(work, times: int) -> float:
    """The median of so many runs [s]."""
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return median(seconds)


@contextlib.contextmanager
def busy(processes: int):
    """Processes that keep a core busy each."""
    started = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for each in started:
            each.kill()
            each.wait()


def rounds(options: argparse.Namespace) -> dict[str, list[float]]:
    measured, seconds = Measured(options), defaultdict(list)
    runs = {"decoding": measured.decoding, "transformers": measured.transformers}
    if measured.llama:
        runs["llama.cpp"] = measured.llama_cpp
    for rows in ROWS:
        runs[f"products {rows}"] = lambda rows=rows: measured.products(rows)
        runs[f"forward {rows}"] = lambda rows=rows: measured.verification(rows)
    for size in options.prompts:
        runs[f"prompt {size}"] = lambda size=size: measured.prefill(size)
        runs[f"prompt {size}, transformers"] = lambda size=size: measured.transformers_prefill(size)
        if measured.llama:
            runs[f"prompt {size}, llama.cpp"] = lambda size=size: measured.llama_prefill(size)
    for run in runs.values():
        run()
    # Beside busy processes a step of transformers may take seconds.
    beside = {"decoding": measured.decoding, "transformers": lambda: measured.transformers(8)}
    beside |= {f"prompt {size}": runs[f"prompt {size}"] for size in options.prompts[:1]}
    for turn in range(options.rounds):
        names = list(runs)
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            seconds[name].append(runs[name]())
        if options.busy:
            with busy(options.busy):
                for name, run in beside.items():
                    seconds[f"{name}, busy"].append(run())
        report(options, seconds, measured.model.arithmetic)
    return seconds


PAIRS = (
    ("decoding, of transformers", "transformers", "decoding"),
    ("decoding, of llama.cpp bf16", "llama.cpp", "decoding"),
    ("a step, of its products alone", "forward 1", "products 1"),
    ("8 rows, of one", "forward 8", "forward 1"),
    ("16 rows, of one", "forward 16", "forward 1"),
    ("products of 8 rows, of one", "products 8", "products 1"),
    ("products of 16 rows, of one", "products 16", "products 1"),
    ("decoding beside busy processes, of alone", "decoding, busy", "decoding"),
    ("transformers beside busy processes, of alone", "transformers, busy", "transformers"),
)


def report(options: argparse.Namespace, seconds: dict[str, list[float]], arithmetic: str) -> None:
    """The tables so far, written after every round."""
    rows = [[name, f"{1e3 * median(each):.2f}", f"{1 / median(each):.1f}", len(each)] for name, each in seconds.items()]
    pairs = list(PAIRS)
    for size in options.prompts:
        pairs.append((f"prompt of {size}, of transformers", f"prompt {size}, transformers", f"prompt {size}"))
        pairs.append((f"prompt of {size}, of llama.cpp", f"prompt {size}, llama.cpp", f"prompt {size}"))
        pairs.append((f"prompt of {size} beside busy processes, of alone", f"prompt {size}, busy", f"prompt {size}"))
    found = [[name, ratio(seconds[one], seconds[other])] for name, one, other in pairs if seconds.get(one)]
    text = table(["what", "median [ms]", "a second", "n"], rows) + "\n\n"
    text += table(["ratio of times", "median [95 %]"], found)
    write("bench_speed", f"{torch.get_num_threads()} threads; arithmetic: {arithmetic}; busy: {options.busy}", text)


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--rounds", type=int, default=9)
    arguments.add_argument("--prompts", type=int, nargs="*", default=[1000, 2000, 4000])
    arguments.add_argument("--gguf")
    arguments.add_argument("--busy", type=int, default=0)
    arguments.add_argument("--untested", action="store_true")
    options = arguments.parse_args()
    if not options.untested:
        passing("tests/kernels", "tests/engine/test_fused.py", "tests/engine/test_bit_for_bit.py")
    rounds(options)


if __name__ == "__main__":
    main()
