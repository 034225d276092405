"""Drafting in wall clock: every drafter against the engine's own baseline, and against transformers' own drafting.

``python tests/benchmarks/bench_drafting.py [--device cpu] [--dtype bfloat16] [--prompts 5] [--new-tokens 128]
[--rounds 2] [--tasks chat,copying] [--recipe NAME=SPEC …]``: batch 1, greedy, runs interleaved prompt by prompt, A B C
A B C …, and ratios paired by prompt and round; beside them the ratio of the seconds of all prompts together. Speeds are
of decoding, after the first token, on both sides; transformers' assisted generation drafts with the weights of
``draft_model``. The prompt of ``copying`` is a passage twice and its beginning a third time. The tests of the loop run
first, and nothing is reported if one of them fails.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections import defaultdict

import torch
from _assistant import as_transformers
from _report import passing, ratio_interval, table, write

import workbench as wb
import workbench.techniques
from workbench.drafting.drafter import drafter_model
from workbench.registry import TECHNIQUES
from workbench.settings import parse
from workbench.tasks import encode_prompt, load_prompts

RECIPES = {
    "prompt_lookup": "prompt_lookup",
    "suffix_draft": "suffix_draft",
    "suffix_draft + goodput": "suffix_draft+goodput",
    "token_recycling": "token_recycling",
    "token_recycling + goodput": "token_recycling+goodput",
    "medusa_heads + goodput": "medusa_heads+goodput",
    "hydra_heads": "hydra_heads",
    "hydra_heads + goodput": "hydra_heads+goodput",
    "suffix_draft with hydra_heads": "suffix_draft:auxiliary=hydra_heads",
    "suffix_draft with hydra_heads + goodput": "suffix_draft:auxiliary=hydra_heads+goodput",
    "draft_model": "draft_model:model=distilled",
    "draft_model + goodput": "draft_model:model=distilled+goodput",
}
THEIRS = "transformers greedy"


def cases(model, task, most):
    """Token ids of ``most`` prompts of a task."""
    if task != "copying":
        return [encode_prompt(model.tokenizer, prompt) for prompt in load_prompts(task)[:most]]
    passages = [
        model.encode(prompt.prompt.split("\n\n", 1)[-1])[-160:] for prompt in load_prompts("summarising")[:most]
    ]
    return [[*passage, *passage, *passage[:16]] for passage in passages]


def ours(model, techniques, new):
    """A function of token ids that gives seconds per decoded token and facts of the run."""

    def run(ids):
        steps = list(wb.generate(model, ids, techniques, max_new_tokens=new))
        decoded = steps[1:]
        seconds = sum(step.seconds for step in decoded)
        tokens = sum(len(step.tokens) for step in decoded)
        facts = {
            "tokens": tokens,
            "steps": len(decoded),
            "draft": sum(step.draft_seconds for step in decoded),
            "rest": seconds - sum(step.draft_seconds + step.verify_seconds for step in decoded),
            "seconds": seconds,
            "text": [token for step in steps for token in step.tokens],
        }
        return seconds / max(1, tokens), facts

    return run


def theirs(model, new, **options):
    """The same for transformers' ``generate``; the prefill is timed alone and taken off."""

    def run(ids):
        inputs = torch.tensor([ids], device=model.device)
        call = {"attention_mask": torch.ones_like(inputs), "do_sample": False, "pad_token_id": 0, **options}
        start = time.perf_counter()
        model.hf.generate(
            inputs, max_new_tokens=1, **{**call, "prompt_lookup_num_tokens": None, "assistant_model": None}
        )
        first = time.perf_counter() - start
        start = time.perf_counter()
        out = model.hf.generate(inputs, max_new_tokens=new, **call)
        seconds = time.perf_counter() - start - first
        tokens = out.shape[1] - len(ids) - 1
        return max(seconds, 1e-9) / max(1, tokens), {
            "tokens": tokens,
            "seconds": seconds,
            "text": out[0, len(ids) :].tolist(),
        }

    return run


def contenders(model, recipes, new, with_theirs):
    """Name -> run; the first is the engine's baseline."""
    runs = {"baseline": ours(model, [], new)}
    for name, spec in recipes.items():
        runs[name] = ours(model, parse(spec, TECHNIQUES), new)
    if with_theirs:
        runs[THEIRS] = theirs(model, new)
        runs["transformers prompt lookup"] = theirs(model, new, prompt_lookup_num_tokens=10)
        assistant = as_transformers(model, drafter_model(model, "distilled"))
        runs["transformers assisted generation"] = theirs(model, new, assistant_model=assistant)
    return runs


def measure(runs, prompts, rounds):
    """Seconds per token of every run (prompt by prompt, round by round), and summed facts."""
    seconds, facts = defaultdict(list), defaultdict(lambda: defaultdict(float))
    names = list(runs)
    for turn in range(rounds):
        for place, ids in enumerate(prompts):
            shift = (turn + place) % len(names)
            texts = {}
            for name in names[shift:] + names[:shift]:
                each, found = runs[name](ids)
                texts[name] = found.pop("text")
                seconds[name].append(each)
                for key, value in found.items():
                    facts[name][key] += value
            for name in names:
                facts[name]["same"] += texts[name] == texts["baseline"]
            gc.collect()
    return seconds, facts


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--model", default="smollm2-135m")
    arguments.add_argument("--device", default="cpu")
    arguments.add_argument("--dtype", default="bfloat16")
    arguments.add_argument("--prompts", type=int, default=5)
    arguments.add_argument("--new-tokens", type=int, default=128)
    arguments.add_argument("--rounds", type=int, default=2)
    arguments.add_argument("--tasks", default="")
    arguments.add_argument("--recipe", action="append", default=[])
    arguments.add_argument("--without-theirs", action="store_true")
    arguments.add_argument("--untested", action="store_true")
    options = arguments.parse_args()
    if not options.untested:
        passing("tests/engine", "-m", "not bundled")
    model = wb.load(options.model, dtype=options.dtype, device=options.device)
    recipes = dict(each.split("=", 1) for each in options.recipe) or RECIPES
    runs = contenders(model, recipes, options.new_tokens, not options.without_theirs)
    rows = []
    tasks = (
        options.tasks.split(",")
        if options.tasks
        else ["copying", *dict.fromkeys(prompt.task for prompt in load_prompts("mixed"))]
    )
    for name, run in runs.items():
        run(cases(model, "chat", 1)[0])
        print(f"warm: {name}", flush=True)
    for task in tasks:
        prompts = cases(model, task, options.prompts)
        seconds, facts = measure(runs, prompts, options.rounds)
        for name, times in seconds.items():
            ratio, low, high = ratio_interval(seconds["baseline"], times)
            fact, plain = facts[name], facts["baseline"]
            together = plain["seconds"] / plain["tokens"] / (fact["seconds"] / fact["tokens"])
            known = "steps" in fact
            row = [
                task,
                name,
                f"{1 / sorted(times)[len(times) // 2]:.1f}",
                f"{ratio:.2f} [{low:.2f}, {high:.2f}]",
                f"{together:.2f}",
                f"{fact['tokens'] / fact['steps']:.2f}" if known else "",
                f"{fact['draft'] / fact['seconds']:.0%}" if known else "",
                f"{fact['rest'] / fact['seconds']:.0%}" if known else "",
                f"{fact['same'] / len(times):.0%}",
            ]
            rows.append(row)
            print(" | ".join(row), flush=True)
    head = [
        "task",
        "recipe",
        "tokens/s (median)",
        "ratio to baseline, median [95 %]",
        "all prompts",
        "tokens per step",
        "drafting",
        "bookkeeping",
        "same text",
    ]
    note = f"{options.device}, {options.dtype}, {torch.get_num_threads()} threads, {options.prompts} prompts, "
    note += f"{options.rounds} rounds, {options.new_tokens} new tokens; arithmetic: {model.arithmetic}"
    write(f"bench_drafting_{options.dtype}", note, table(head, rows))


if __name__ == "__main__":
    main()
