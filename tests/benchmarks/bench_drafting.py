"""Drafting in wall clock: drafters against the engine's own baseline, and against transformers' own drafting.

``python tests/benchmarks/bench_drafting.py [--prompts 6] [--rounds 1] [--new-tokens 96] [--tasks chat,copying]
[--recipe NAME=SPEC …] [--without-theirs] [--dtype bfloat16] [--device cpu]``: batch 1, greedy, runs interleaved prompt
by prompt, A B C A B C …, about twenty minutes as it stands. Speeds are of decoding, after the first token, on both
sides, and paired: a ratio is of two runs on the same prompt in the same round. Its median and its interval are those of
a study, over prompts. Transformers' assisted generation drafts with the weights of ``draft_model``. The prompt of
``copying`` is a passage twice and its beginning a third time. The tests of the loop run first, and nothing is reported
if one of them fails.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
import torch
from _assistant import as_transformers
from _report import passing, spelled, table, write
from bench_engine import loaded

import workbench as wb
import workbench.techniques
from workbench.metrics import median_interval
from workbench.registry import TECHNIQUES
from workbench.settings import parse
from workbench.studies.compatibility_trial import Trial
from workbench.tasks import encode_prompt, load_prompts
from workbench.techniques.draft._model_drafter import drafter_model

RECIPES = {
    "`suffix_draft`": "suffix_draft",
    "`hydra_heads`": "hydra_heads",
    "both, with `goodput`": "suffix_draft:auxiliary=hydra_heads+goodput",
    "`draft_model`": "draft_model:model=distilled",
}
NAN = float("nan")


@dataclass
class Run:
    """One generation: decoded tokens and their seconds, decode steps, seconds of drafting, and the whole text."""

    tokens: int
    seconds: float
    text: list[int]
    steps: int = 0
    drafting: float = 0.0

    @property
    def per_token(self):
        return self.seconds / self.tokens if self.tokens else NAN


@dataclass
class Results:
    """Runs of one recipe on a task's prompts, place by place, round by round."""

    runs: dict[int, list[Run]] = field(default_factory=lambda: defaultdict(list))

    def all(self):
        return [run for runs in self.runs.values() for run in runs]

    @property
    def per_token(self):
        """Seconds [prompt, round]."""
        return np.array([[run.per_token for run in runs] for runs in self.runs.values()])

    @property
    def accepted(self):
        """Mean accepted tokens: all tokens of decode steps over all decode steps; NaN where steps are not known."""
        steps = sum(run.steps for run in self.all())
        return sum(run.tokens for run in self.all()) / steps if steps else NAN


def cases(model, task, most):
    """Token ids of ``most`` prompts of a task; drawn ones for a model without a tokenizer."""
    if model.tokenizer is None:
        return [Trial(model).prompt] * most
    if task != "copying":
        return [encode_prompt(model.tokenizer, prompt) for prompt in load_prompts(task, most)]
    passages = [model.encode(prompt.prompt.split("\n\n", 1)[-1])[-160:] for prompt in load_prompts("summarising", most)]
    return [[*passage, *passage, *passage[:16]] for passage in passages]


def ours(model, techniques, new):
    """A function of token ids that runs a recipe."""

    def run(ids):
        first, *decoded = wb.generate(model, ids, techniques, max_new_tokens=new)
        return Run(
            tokens=sum(len(step.tokens) for step in decoded),
            seconds=sum(step.seconds for step in decoded),
            text=[token for step in (first, *decoded) for token in step.tokens],
            steps=len(decoded),
            drafting=sum(step.draft_seconds for step in decoded),
        )

    return run


def theirs(model, new, **options):
    """The same for transformers' ``generate``; the prefill is timed alone and taken off."""

    def run(ids):
        inputs = torch.tensor([ids], device=model.device)
        call = {"attention_mask": torch.ones_like(inputs), "do_sample": False, "pad_token_id": 0}
        start = time.perf_counter()
        model.hf.generate(inputs, max_new_tokens=1, **call)
        first = time.perf_counter() - start
        start = time.perf_counter()
        out = model.hf.generate(inputs, max_new_tokens=new, **call, **options)
        seconds = time.perf_counter() - start - first
        text = out[0, len(ids) :].tolist()
        return Run(len(text) - 1, max(seconds, 1e-9), text)

    return run


def contenders(model, recipes, new, with_theirs):
    """Name -> run; the first is the engine's baseline."""
    runs = {"baseline": ours(model, [], new)}
    for name, spec in recipes.items():
        runs[name] = ours(model, parse(spec, TECHNIQUES), new)
    if with_theirs:
        runs["transformers greedy"] = theirs(model, new)
        runs["its prompt lookup"] = theirs(model, new, prompt_lookup_num_tokens=10)
        assistant = as_transformers(model, drafter_model(model, "distilled"))
        runs["its assisted generation"] = theirs(model, new, assistant_model=assistant)
    return runs


def measure(runs, prompts, rounds):
    """Results of every run."""
    found, names = {name: Results() for name in runs}, list(runs)
    for turn in range(rounds):
        for place, ids in enumerate(prompts):
            shift = (turn + place) % len(names)
            for name in names[shift:] + names[:shift]:
                found[name].runs[place].append(runs[name](ids))
            gc.collect()
    return found


def speed_up(found, name):
    """Speed-up over the baseline, an interval over prompts."""
    return median_interval(found["baseline"].per_token / found[name].per_token)


def readme_row(task, found):
    """A task's row of the README's table: speed-up with interval, and after it the mean accepted tokens."""
    rate = median_interval(1 / found["baseline"].per_token)
    row = [task.replace("_", " "), f"{rate.n} of {rate.of}", f"{rate.median:.0f}"]
    for name in list(found)[1:]:
        accepted = found[name].accepted
        row.append(spelled(speed_up(found, name)) + ("" if np.isnan(accepted) else f"; {accepted:.2f}"))
    return row


def detail_rows(task, found):
    """What else is known of every run of a task."""
    texts = [run.text for run in found["baseline"].all()]
    for name, results in found.items():
        runs, rate = results.all(), median_interval(1 / results.per_token)
        seconds = sum(run.seconds for run in runs)
        share = sum(run.drafting for run in runs) / seconds if seconds else NAN
        same = np.mean([run.text == text for run, text in zip(runs, texts)])
        yield [task, name, f"{rate.n} of {rate.of}", f"{rate.median:.1f}", f"{sum(run.tokens for run in runs)}",
               f"{share:.0%}" if results.accepted == results.accepted else "", f"{same:.0%}"]  # fmt: skip


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--model", default="smollm2-135m")
    arguments.add_argument("--device", default="cpu")
    arguments.add_argument("--dtype", default="bfloat16")
    arguments.add_argument("--prompts", type=int, default=6, help="of each task; fewer than 5 have no interval")
    arguments.add_argument("--new-tokens", type=int, default=96)
    arguments.add_argument("--rounds", type=int, default=1)
    arguments.add_argument("--tasks", default="")
    arguments.add_argument("--recipe", action="append", default=[])
    arguments.add_argument("--without-theirs", action="store_true")
    arguments.add_argument("--untested", action="store_true")
    options = arguments.parse_args()
    if not options.untested:
        passing("tests/engine", "-m", "not bundled")
    model = loaded(options.model, options.dtype, options.device)
    recipes = dict(each.split("=", 1) for each in options.recipe) or RECIPES
    runs = contenders(model, recipes, options.new_tokens, not options.without_theirs)
    bundled = ["copying", *dict.fromkeys(prompt.task for prompt in load_prompts("mixed"))]
    for name, run in runs.items():
        run(cases(model, "chat", 1)[0])
        print(f"warm: {name}", flush=True)
    rows, details, levels = [], [], set()
    for task in options.tasks.split(",") if options.tasks else bundled:
        found = measure(runs, cases(model, task, options.prompts), options.rounds)
        levels |= {(each.n, each.level) for each in (speed_up(found, name) for name in found) if each.bounded}
        rows.append(readme_row(task, found))
        details += detail_rows(task, found)
        report(options, model, levels, list(runs)[1:], rows, details)


def report(options, model, levels, names, rows, details):
    """Write what there is so far."""
    each = ", ".join(f"{100 * level:.1f} % (n {n})" for n, level in sorted(levels)) or "none, from fewer than 5 prompts"
    note = f"{options.device}, {options.dtype}, {torch.get_num_threads()} threads, {options.prompts} prompts a task, "
    note += f"{options.rounds} rounds, {options.new_tokens} new tokens; arithmetic: {model.arithmetic}"
    note += f". Speed-up over plain decoding, median over prompts [interval: {each}]; mean accepted tokens."
    head = ["task", "prompts", "plain decoding [tokens/s]", *names]
    more = ["task", "recipe", "prompts", "tokens/s (median)", "decoded tokens", "drafting", "same text"]
    write(f"bench_drafting_{options.dtype}", note, f"{table(head, rows)}\n\n## Details\n\n{table(more, details)}")


if __name__ == "__main__":
    main()
