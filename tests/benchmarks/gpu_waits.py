"""Waits for a device in a decode step as torch itself counts them, beside those that were counted on the stand-in.

``python tests/benchmarks/gpu_waits.py [--device cuda]``. Torch warns of every operation that waits, of copies to the
device too: these are uploads on the stand-in. Explicit waits (``torch.cuda.synchronize``) it does not count. On a CPU
there is nothing to count, and the table has the stand-in's numbers alone.
"""

from __future__ import annotations

import argparse
import os
import warnings

import torch
from _report import table, write

import workbench.techniques
from workbench.engine.generate import generate
from workbench.errors import SettingError
from workbench.models.tiny import tiny
from workbench.studies.compatibility_trial import NEW, Trial
from workbench.studies.synchronisations import recipe, stored, walk

assert workbench.techniques, "imported to fill the registry"


def warned(model, techniques, prompt):
    """Waits per decode step that torch warned of."""
    total, index = 0, 0
    for index, _ in enumerate(generate(model, prompt, techniques, max_new_tokens=NEW, stop_tokens=())):
        if not index:
            caught = warnings.catch_warnings(record=True)
            total = caught.__enter__()
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
    torch.cuda.set_sync_debug_mode("default")
    caught.__exit__(None, None, None)
    return sum("synchronizing" in str(each.message) for each in total) / index


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--device", default="cuda")
    device = torch.device(arguments.parse_args().device)
    trial, known, rows = Trial(tiny("llama")), stored(), []
    _, plain = walk(trial.model, [], trial.prompt)
    for name in ["", *sorted(known)]:
        waits = known[name] if name else plain
        if waits.reason:
            continue
        found = ""
        if device.type == "cuda":
            try:
                model = trial.model.variant(device=device)
                found = f"{warned(model, recipe(name) if name else [], trial.prompt):.2f}"
            except SettingError as error:
                found = str(error)
        row = waits.row()
        counted = row["waits_per_step"], row["uploads_per_step"]
        rows.append([name or "baseline", *(f"{each:.2f}" for each in counted), f"{sum(counted):.2f}", found])
    head = ["technique", "waits a step, stand-in", "uploads", "both", f"torch on {device}"]
    write("gpu_waits", f"Of {os.path.basename(__file__)}: a tiny model, greedy, means over steps.", table(head, rows))


if __name__ == "__main__":
    main()
