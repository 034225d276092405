"""Which layers to skip, as many every time: spread over the model or in one stretch; and what a batch runs of them.

``python tests/benchmarks/bench_layer_skipping.py [--tasks summarising,translation] [--prompts 8] [--new-tokens 32]
[--speedups 1.15,1.25,1.5] [--dtype bfloat16] [--untested]``: the comparison of Unified Layer Skipping (Liu et al.,
2024, arXiv 2404.06954) at equal layers run, on its two tasks. Divergence and agreement are along the plain text,
teacher forced. A *batch* is the prompts of a task decoded side by side, token by token: a layer runs for all of them if
one needs it, so what skips for every token alike saves as much as alone, and what is decided token by token does not.
It is counted from the layers of each prompt's own run; nothing is timed. Exits and sorted models stand beside it.
"""

from __future__ import annotations

import argparse

from _report import passing, table, write
from bench_engine import loaded

from workbench import artifacts
from workbench.engine import generate
from workbench.studies.quality import Forced
from workbench.tasks import encode_prompt, load_prompts
from workbench.techniques import ConfidenceExit, SortedExit, UnifiedLayerSkip
from workbench.techniques.depth.unified_layer_skip import ORDERS

HEAD = ["task", "recipe", "layers a token", "layers of a batch", "divergence [nats]", "agreement"]
EXITS = {
    "exit, tuned lens, 0.8": [ConfidenceExit(first=0.7, every=2)],
    "exit, tuned lens, 0.5": [ConfidenceExit(first=0.7, every=2, threshold=0.5)],
    "exit, logit lens, 0.5": [ConfidenceExit(first=0.7, every=3, threshold=0.5, lens="logit")],
}
SORTED = {
    "sorted, 24 of 30": [SortedExit(budget=0.8)],
    "sorted, 27 of 30": [SortedExit(budget=0.9)],
    "sorted, exit, logit lens, 0.5": [SortedExit(budget=1), EXITS["exit, logit lens, 0.5"][0]],
}
"""Where a sorted model has been trained."""


def recipes(speedups):
    """Name -> techniques."""
    found = {}
    for speedup in speedups:
        for order in ORDERS:
            found[f"{order}, {speedup:g} times"] = [UnifiedLayerSkip(speedup=speedup, order=order)]
    return found | EXITS | (SORTED if artifacts.place("sorted_exit").is_file() else {})


def layers_run(model, prompts, techniques, new):
    """Mean layers of a decoded token, and of a step of all prompts side by side."""
    texts = []
    for prompt in prompts:
        _, *steps = generate(model, prompt, techniques, max_new_tokens=new, stop_tokens=())
        texts.append([set(step.layers) for step in steps])
    alone = [len(layers) for text in texts for layers in text]
    together = [len(set().union(*layers)) for layers in zip(*texts, strict=True)]
    return sum(alone) / len(alone), sum(together) / len(together)


def plain_views(model, prompts, new):
    """Along what the model writes to each prompt, what recipes are held against."""
    found = []
    for prompt in prompts:
        steps = generate(model, prompt, max_new_tokens=new, stop_tokens=())
        found.append(Forced(model, prompt, [token for step in steps for token in step.tokens]))
    return found


def quality(views, techniques):
    """Mean divergence from the model's distributions along its own texts, all of one length, and share of equal first
    tokens."""
    found = [view.compare(techniques) for view in views]
    return tuple(sum(each[name] for each in found) / len(found) for name in ("kl", "top1_agreement"))


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--model", default="smollm2-135m")
    arguments.add_argument("--device", default="cpu")
    arguments.add_argument("--dtype", default="bfloat16")
    arguments.add_argument("--tasks", default="summarising,translation")
    arguments.add_argument("--prompts", type=int, default=8, help="of each task: a batch")
    arguments.add_argument("--longest", type=int, default=400, help="tokens of a prompt that are read at most")
    arguments.add_argument("--new-tokens", type=int, default=32)
    arguments.add_argument("--speedups", default="1.15,1.25,1.5")
    arguments.add_argument("--only", default="", help="recipes whose names begin so")
    arguments.add_argument("--untested", action="store_true")
    options = arguments.parse_args()
    if not options.untested:
        passing("tests/techniques/depth", "-m", "not bundled")
    model = loaded(options.model, options.dtype, options.device)
    chosen, lines = recipes([float(each) for each in options.speedups.split(",")]), []
    for task in options.tasks.split(","):
        prompts = [
            encode_prompt(model.tokenizer, each)[-options.longest :] for each in load_prompts(task, options.prompts)
        ]
        views = plain_views(model, prompts, options.new_tokens)
        for name, techniques in chosen.items():
            if not name.startswith(tuple(options.only.split(","))):
                continue
            one, batch = layers_run(model, prompts, techniques, options.new_tokens)
            lost, agreed = quality(views, techniques)
            lines.append([task, name, f"{one:.1f}", f"{batch:.1f}", f"{lost:.2f}", f"{agreed:.2f}"])
    note = f"{options.device}, {options.dtype}, {options.prompts} prompts a task, {options.new_tokens} new tokens."
    write(f"bench_layer_skipping_{options.dtype}", note, table(HEAD, lines))


if __name__ == "__main__":
    main()
