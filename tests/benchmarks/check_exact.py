"""Every technique marked exact against greedy decoding: equal in float32, flips with their margins in bfloat16.

``python tests/benchmarks/check_exact.py [--model smollm2-135m] [--prompts 60] [--new-tokens 48] [--only NAME,…]``. Too
long for every landing: the test suite checks a few prompts. Ends with 1 if an exact technique differs in
float32.
"""

from __future__ import annotations

import argparse
import sys

import torch
from _report import table, write

import workbench as wb
import workbench.techniques
from workbench.engine import teacher_force
from workbench.errors import SettingError
from workbench.registry import TECHNIQUES
from workbench.tasks import encode_prompt, load_prompts


def spread(model, count):
    """``count`` prompts, in turn from every task, as token ids."""
    return [encode_prompt(model.tokenizer, prompt) for prompt in load_prompts("mixed", limit=count)]


def tokens(model, ids, techniques, new):
    """Greedy tokens of a recipe."""
    return [token for step in wb.generate(model, ids, techniques, max_new_tokens=new) for token in step.tokens]


def margin(model, ids, text, place):
    """Lead [logit] of the baseline's best token over the second where a text parts from it."""
    rows = torch.cat([row.clone() for row in teacher_force(model, ids, text[: place + 1])])
    best = rows[place].float().topk(2).values
    return float(best[0] - best[1])


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--model", default="smollm2-135m")
    arguments.add_argument("--prompts", type=int, default=60)
    arguments.add_argument("--new-tokens", type=int, default=48)
    arguments.add_argument("--only", default="")
    arguments.add_argument("--dtypes", default="float32,bfloat16")
    options = arguments.parse_args()
    names = [name for name, kind in TECHNIQUES.items() if kind.exact and "switch" not in kind.slots]
    names = options.only.split(",") if options.only else names
    rows, wrong = [], 0
    for dtype in options.dtypes.split(","):
        model = wb.load(options.model, dtype=dtype, device="cpu")
        prompts = spread(model, options.prompts)
        plain = [tokens(model, ids, [], options.new_tokens) for ids in prompts]
        for name in names:
            try:
                flips = []
                for ids, text in zip(prompts, plain):
                    found = tokens(model, ids, [TECHNIQUES[name]()], options.new_tokens)
                    place = next((i for i, (a, b) in enumerate(zip(found, text)) if a != b), None)
                    if place is not None or len(found) != len(text):
                        flips.append(margin(model, ids, text, min(place or 0, len(text) - 1)))
            except SettingError as error:
                rows.append([dtype, name, "does not apply", str(error)])
                continue
            wrong += len(flips) if dtype == "float32" else 0
            listed = ", ".join(f"{each:.3f}" for each in sorted(flips))
            rows.append([dtype, name, f"{len(prompts) - len(flips)} of {len(prompts)}", listed])
            print(rows[-1], flush=True)
    note = f"{options.model}: {options.prompts} prompts, {options.new_tokens} new tokens, greedy"
    write("check_exact", note, table(["dtype", "technique", "equal texts", "margins of the flips [logit]"], rows))
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
