"""The cells of a study as one tree: what tables, figures and pages read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from workbench import trace
from workbench.cost.roofline import run_seconds
from workbench.errors import WorkbenchError
from workbench.settings import spell
from workbench.studies.cells import NAN, Cell
from workbench.studies.fact_table import SCORES
from workbench.studies.facts import (
    drafted,
    drafts_of_many,
    layers_of_many,
    models_of,
    steps_of_many,
    sums,
    text_of_many,
)
from workbench.studies.plan import BASELINE, Plan
from workbench.studies.quality import against_baseline, answer
from workbench.studies.run import recipe as recipe_of
from workbench.studies.run import sha256
from workbench.tasks import question_view

# variable -> (units, long name)
TIMING: dict[str, tuple[str, str]] = {
    "seconds": ("s", "wall clock of the whole generation, measured"),
    "tokens_per_second": ("tokens/s", "tokens decoded for each second after the first token, measured"),
    "time_to_first_token": ("s", "wall clock up to the first token, measured"),
    "speedup": ("1", "speed-up in seconds per decoded token against the baseline of the same repeat, measured"),
}


def build_tree(
    plan: Plan, cells: Mapping[str, Sequence[Cell]], partial: bool = False, renewed: Mapping[str, int] | None = None
) -> xr.DataTree:
    """The study tree.

    Parameters
    ----------
    plan : Plan
    cells : mapping of str to sequence of Cell
        For every recipe of the plan a cell for every prompt, empty where it was not reached.
    partial : bool
        Whether the study was stopped before its end.
    renewed : mapping of str to int, optional
        What a kept result's names stood for and do no longer -> how many results were computed anew for it.

    Returns
    -------
    xarray.DataTree
        Groups ``scores`` (run, prompt), ``timing`` (run, prompt, repeat), ``steps`` (run, prompt, step), ``layers``
        (run, prompt, step, layer), ``text`` (run, prompt, token), ``drafts`` (node), ``modelled`` (run, prompt,
        hardware).
    """
    rows = [cells[name] for name in plan.recipes]
    steps = [[cell.steps for cell in row] for row in rows]
    models = models_of([each for row in steps for each in row]) or [plan.model.name]
    groups = {
        "scores": _scores(plan, rows),
        "timing": _timing(plan, rows),
        "steps": steps_of_many(steps, models),
        "layers": layers_of_many(steps, plan.model.layers),
        "text": text_of_many(steps),
        "drafts": drafts_of_many(steps),
        "modelled": _modelled(plan, rows),
    }
    dtype, contexts = _dtype(plan), [case.context_tokens for case in plan.cases]
    recipe = {
        "runs": {
            name: recipe_of(plan.model, [], each, plan.options)["techniques"] for name, each in plan.recipes.items()
        },
        "content": {name: plan.content(name) for name in plan.recipes},
        "options": plan.options,
        "arithmetic": plan.model.arithmetic,
        "repeats": plan.repeats,
        "prompts_sha256": sha256([case.tokens for case in plan.cases]),
        "context_tokens": contexts,
    }
    return trace.build(
        groups,
        model=plan.model,
        kind="study",
        recipe={**recipe, "hash": sha256([plan.model.name, plan.model.revision, dtype, recipe])},
        used={token for row in rows for cell in row for token in cell.tokens} | drafted(groups["drafts"]),
        seed=plan.seed,
        runs=[_run_record(name, plan, cells[name]) for name in plan.recipes],
        prompts=[case.record(plan.model) for case in plan.cases],
        question=question_view(*contexts),
        models=models,
        hardware=[each.name for each in plan.hardware],
        hardware_details=[
            {"name": each.name, "flops": each.peak(dtype), "bandwidth": each.bandwidth, "source": each.source}
            for each in plan.hardware
        ],
        baseline=list(plan.recipes).index(BASELINE),
        partial=int(partial),
        renewed=dict(renewed or {}),
    )


def _run_record(name: str, plan: Plan, row: Sequence[Cell]) -> dict[str, Any]:
    techniques = plan.recipes[name]
    failures = {case.id: cell.failed for case, cell in zip(plan.cases, row) if cell.failed is not None}
    return {
        "name": name,
        "technique": "+".join(map(spell, techniques)) or BASELINE,
        "exact_declared": all(technique.exact for technique in techniques),
        "simulated": any(getattr(technique, "simulated", False) for technique in techniques),
        "failed": next(iter(failures.values()), None),
        "failed_prompts": list(failures),
    }


def _scores(plan: Plan, rows: Sequence[Sequence[Cell]]) -> xr.Dataset:
    values = {name: np.full((len(rows), len(plan.cases)), NAN) for name in SCORES}
    half = _dtype(plan) != "float32"
    for place, case in enumerate(plan.cases):
        baseline = rows[0][place]
        margins = (baseline.quality or {}).get("margins", [])
        for run, (row, techniques) in enumerate(zip(rows, plan.recipes.values())):
            cell = row[place]
            if not cell.ran:
                continue
            scores = sums(cell.steps)
            if cell.quality is not None:
                scores |= {name: cell.quality[name] for name in ("kl", "top1_agreement", "perplexity")}
            scores["score"] = _task_score(plan, case, cell)
            if baseline.ran:
                scores |= against_baseline(plan.model, cell.tokens, baseline.tokens)
                parted = scores["first_divergence"]
                exact = all(technique.exact for technique in techniques)
                scores["flips"] = float(exact and half and not scores["equal_to_baseline"])
                if parted < len(margins):
                    scores["flip_margin"] = margins[int(parted)]
            for name, value in scores.items():
                values[name][run, place] = value
    data = {name: trace.variable("run prompt", values[name], *about) for name, about in SCORES.items()}
    return xr.Dataset(data, coords={"run": np.arange(len(rows)), "prompt": np.arange(len(plan.cases))})


def _task_score(plan: Plan, case: Any, cell: Cell) -> float:
    try:
        return case.score(answer(plan.model, cell.tokens))
    except WorkbenchError:
        return NAN


def _timing(plan: Plan, rows: Sequence[Sequence[Cell]]) -> xr.Dataset:
    def gather(what: Any) -> np.ndarray:
        return np.array([[[what(cell, repeat) for repeat in range(plan.repeats)] for cell in row] for row in rows])

    values = {
        "seconds": gather(lambda cell, repeat: cell.seconds[repeat]),
        "tokens_per_second": gather(lambda cell, repeat: 1 / cell.seconds_per_token(repeat)),
        "time_to_first_token": gather(lambda cell, repeat: cell.time_to_first_token[repeat]),
        "speedup": gather(lambda cell, repeat: cell.speedup[repeat]),
    }
    data = {name: trace.variable("run prompt repeat", values[name], *about) for name, about in TIMING.items()}
    sizes = zip(("run", "prompt", "repeat"), values["seconds"].shape)
    return xr.Dataset(data, coords={name: np.arange(size) for name, size in sizes})


def _modelled(plan: Plan, rows: Sequence[Sequence[Cell]]) -> xr.Dataset:
    dtype, shape = _dtype(plan), (len(rows), len(plan.cases), len(plan.hardware))
    seconds, per_token = np.full(shape, NAN), np.full(shape, NAN)
    for run, row in enumerate(rows):
        for place, cell in enumerate(row):
            flops, moved = (np.array([getattr(step, name) for step in cell.steps[1:]]) for name in ("flops", "bytes"))
            for number, hardware in enumerate(plan.hardware):
                if len(cell.tokens) > 1:
                    seconds[run, place, number] = run_seconds(flops, moved, hardware, dtype)
                    per_token[run, place, number] = seconds[run, place, number] / (len(cell.tokens) - 1)
    dims = "run prompt hardware"
    data = {
        "seconds": trace.variable(dims, seconds, "s", f"seconds after the first token in {dtype}, modelled"),
        "speedup": trace.variable(
            dims, per_token[:1] / per_token, "1", f"speed-up in seconds per decoded token in {dtype}, modelled"
        ),
    }
    return xr.Dataset(data, coords={name: np.arange(size) for name, size in zip(dims.split(), shape)})


def _dtype(plan: Plan) -> str:
    return str(plan.model.dtype).removeprefix("torch.")
