"""Every technique marked exact against greedy decoding: equal in float32, flips with their margins in bfloat16.

``python tests/benchmarks/check_exact.py [--models smollm2-135m,tiny-gpt_neox,…] [--prompts 60] [--new-tokens 48]
[--only NAME,…] [--dtypes float32,bfloat16]``. A model ``tiny-FAMILY`` is a random one of that architecture, with random
prompts and each technique's first example; with the others every technique is taken as it comes. Too long for every
landing: the test suite checks a few prompts. Ends with 1 if an exact technique differs in float32.
"""

from __future__ import annotations

import argparse
import itertools
import sys

import torch
from _report import table, write

import workbench as wb
import workbench.techniques
from workbench.engine import teacher_force
from workbench.errors import ModelError, SettingError
from workbench.models.tiny import tiny
from workbench.registry import TECHNIQUES
from workbench.tasks import encode_prompt, load_prompts


def loaded(name, dtype):
    """A model by name; a tiny one for ``tiny-FAMILY``."""
    if name.startswith("tiny-"):
        return tiny(name.removeprefix("tiny-"), dtype=getattr(torch, dtype))
    return wb.load(name, dtype=dtype, device="cpu")


def spread(model, count):
    """``count`` prompts, in turn from every task, as token ids; random ones without a tokenizer."""
    if model.tokenizer is None:
        random = torch.Generator().manual_seed(1)
        lengths = torch.randint(4, 80, (count,), generator=random).tolist()
        return [torch.randint(3, 96, (length,), generator=random).tolist() for length in lengths]
    return [encode_prompt(model.tokenizer, prompt) for prompt in load_prompts("mixed", limit=count)]


def tokens(model, ids, techniques, new):
    """Greedy tokens of a recipe."""
    return [token for step in wb.generate(model, ids, techniques, max_new_tokens=new) for token in step.tokens]


def margin(model, ids, text, place):
    """Lead [logit] of the baseline's best token over the second where a text parts from it."""
    rows = torch.cat([row.clone() for row in teacher_force(model, ids, text[: place + 1])])
    best = rows[place].float().topk(2).values
    return float(best[0] - best[1])


def compared(model, technique, prompts, plain, new):
    """Margins of the flips of a technique, and why it does not apply, if it does not."""
    kind, flips = TECHNIQUES[technique], []
    for ids, text in zip(prompts, plain):
        try:
            found = tokens(model, ids, [kind() if model.tokenizer else kind.examples()[0]], new)
        except (SettingError, ModelError) as error:
            return [], str(error)
        place = next((i for i, (a, b) in enumerate(zip(found, text)) if a != b), None)
        if place is not None or len(found) != len(text):
            flips.append(margin(model, ids, text, min(place or 0, len(text) - 1)))
    return flips, ""


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--models", default="smollm2-135m,tiny-gpt_neox,tiny-gemma3_text,tiny-qwen3")
    arguments.add_argument("--prompts", type=int, default=60)
    arguments.add_argument("--new-tokens", type=int, default=48)
    arguments.add_argument("--only", default="")
    arguments.add_argument("--dtypes", default="float32,bfloat16")
    options = arguments.parse_args()
    names = [name for name, kind in TECHNIQUES.items() if kind.exact and "switch" not in kind.slots]
    names = options.only.split(",") if options.only else names
    rows, wrong = [], 0
    for dtype, name in itertools.product(options.dtypes.split(","), options.models.split(",")):
        model = loaded(name, dtype)
        prompts = spread(model, options.prompts)
        plain = [tokens(model, ids, [], options.new_tokens) for ids in prompts]
        for technique in names:
            flips, skipped = compared(model, technique, prompts, plain, options.new_tokens)
            wrong += len(flips) if dtype == "float32" else 0
            listed = skipped or ", ".join(f"{each:.3f}" for each in sorted(flips))
            equal = "does not apply" if skipped else f"{len(prompts) - len(flips)} of {len(prompts)}"
            rows.append([name, dtype, technique, equal, listed])
            print(rows[-1], flush=True)
    note = f"{options.prompts} prompts, {options.new_tokens} new tokens, greedy"
    write(
        "check_exact", note, table(["model", "dtype", "technique", "equal texts", "margins of the flips [logit]"], rows)
    )
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
