"""Depth in one table: do layers run, operations, bytes and wall clock fall together, and what becomes of the text?

``python tests/benchmarks/bench_depth.py [--tasks code_completion,copy_editing] [--prompts 6] [--new-tokens 64]
[--repeats 2] [--recipe NAME=SPEC …] [--dtype bfloat16] [--untested]``: a study (:func:`workbench.compare`) of one task
after the other, recipes in turns beside plain decoding. Operations and bytes are counted, those of policies among them,
as shares of plain decoding's on the same prompts; a speed-up is of decoding, paired, its median and interval over
prompts. Agreement is along the baseline's text, ROUGE-L of the free text against it.
"""

from __future__ import annotations

import argparse

from _report import passing, spelled, table, write
from bench_engine import loaded

import workbench as wb
from workbench import artifacts
from workbench.tasks import load_prompts

RECIPES = {
    "uniform skipping, 26 of 30": "unified_layer_skip:speedup=1.15",
    "two blocks removed": "layer_drop",
    "exit, tuned lens, 0.8": "confidence_exit:first=0.8,every=2",
    "exit, tuned lens, 0.5": "confidence_exit:first=0.8,every=2,threshold=0.5",
    "exit, logit lens, 0.8": "confidence_exit:first=0.8,every=2,lens=logit",
    "joint exits": "joint_exit",
    "accelerated residual": "accelerated_residual",
    "routed layers": "layer_router",
    "big and small MLPs": "small_big_router",
    "self-speculation": "self_speculative:exit_layer=26",
    "DEL": "dynamic_exit_layer",
}
SORTED = {
    "sorted, 24 of 30": "sorted_exit:budget=0.8",
    "its layers untuned": "sorted_exit:budget=0.8,strength=0",
    "sorted, exit, 0.8": "sorted_exit:budget=1+confidence_exit:lens=logit,first=0.7,every=3",
    "untuned, the same exits": "confidence_exit:lens=logit,first=0.7,every=3",
}
"""Beside the others where such a model has been trained."""
HEAD = ["task", "recipe", "layers a token", "operations", "bytes", "speed-up", "agreement", "ROUGE-L"]


def rows(task, study):
    """A line for every run of a study."""
    summary = study.summary
    plain = next(each for run, each in zip(study.runs, summary) if run["name"] == "baseline")
    for run, each in zip(study.runs, summary):
        shares = [each[f"{kind}_per_token"] / plain[f"{kind}_per_token"] for kind in ("flops", "bytes")]
        yield [task, run["name"], f"{each['layers_per_token']:.1f}", *(f"{share:.2f}" for share in shares),
               spelled(each["speedup"]), f"{each['top1_agreement']:.2f}", f"{each['rouge_l']:.2f}"]  # fmt: skip


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--model", default="smollm2-135m")
    arguments.add_argument("--device", default="cpu")
    arguments.add_argument("--dtype", default="bfloat16")
    arguments.add_argument("--tasks", default="code_completion,copy_editing,chat")
    arguments.add_argument("--prompts", type=int, default=6, help="of each task; fewer than 5 have no interval")
    arguments.add_argument("--new-tokens", type=int, default=64)
    arguments.add_argument("--repeats", type=int, default=2)
    arguments.add_argument("--recipe", action="append", default=[])
    arguments.add_argument("--untested", action="store_true")
    options = arguments.parse_args()
    if not options.untested:
        passing("tests/engine", "tests/techniques/depth", "-m", "not bundled")
    model = loaded(options.model, options.dtype, options.device)
    known = RECIPES | SORTED if artifacts.place("sorted_exit").is_file() else RECIPES
    recipes = dict(each.split("=", 1) for each in options.recipe) or known
    lines = []
    for task in options.tasks.split(","):
        study = wb.compare(
            model,
            load_prompts(task, options.prompts),
            recipes,
            max_new_tokens=options.new_tokens,
            repeats=options.repeats,
            hardware=(),
        )
        lines += rows(task.replace("_", " "), study)
        note = f"{options.device}, {options.dtype}, {options.prompts} prompts a task, {options.new_tokens} new tokens, "
        note += (
            f"{options.repeats} repeats; arithmetic: {model.arithmetic}. Operations, bytes: shares of the baseline's."
        )
        write(f"bench_depth_{options.dtype}", note, table(HEAD, lines))


if __name__ == "__main__":
    main()
