"""Steps of a run as arrays and as sums: what every trace, table and figure of a run is made from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from workbench import trace
from workbench.engine.step import Step
from workbench.studies.fact_table import OF_RUN, OF_STEP, Fact

# variable -> (dtype, units, long name), in the order of the columns
_NODE: dict[str, tuple[Any, str, str]] = {
    "run": (np.int32, "run", "run"),
    "prompt": (np.int32, "prompt", "prompt"),
    "step": (np.int32, "step", "step that verified the token"),
    "token": (np.int32, "token id", "drafted token"),
    "parent": (np.int32, "node", "place of the token before it among the step's nodes"),
    "depth": (np.int16, "tokens", "position in the draft"),
    "kept": (np.int8, "1", "whether the token was accepted"),
    "confidence": (np.float32, "probability", "chance of being kept after its parent, as the drafter sees it"),
}


def models_of(runs: Sequence[Sequence[Step]]) -> list[str]:
    """Names of the models that took steps, in order of appearance."""
    return list(dict.fromkeys(step.model for steps in runs for step in steps))


def steps_dataset(steps: Sequence[Step]) -> xr.Dataset:
    """Facts of every step (step): the group ``steps`` of a run."""
    return _drop(steps_of_many([[steps]], models_of([steps])), "run", "prompt")


def steps_of_many(cells: Sequence[Sequence[Sequence[Step]]], models: list[str]) -> xr.Dataset:
    """Facts of every step (run, prompt, step), padded with -1 or NaN.

    Parameters
    ----------
    cells : sequence of sequence of sequence of Step
        Steps of every prompt of every run.
    models : list of str
        Their place is the variable ``model``.
    """
    length = max((len(steps) for row in cells for steps in row), default=0)
    shape = (len(cells), len(cells[0]) if cells else 0, length)
    place = Fact("model", "model", "place of the model that took the step", "whole", lambda s: models.index(s.model))
    data = {}
    for fact in (*OF_STEP, place):
        values = np.full(shape, -1, np.int32) if fact.step == "whole" else np.full(shape, np.nan, np.float64)
        for run, row in enumerate(cells):
            for prompt, steps in enumerate(row):
                values[run, prompt, : len(steps)] = [fact.value(step) for step in steps]
        data[fact.name] = trace.variable("run prompt step", values, fact.units, fact.long_name)
    return xr.Dataset(data, coords=_places(run=shape[0], prompt=shape[1], step=length))


def text_dataset(steps: Sequence[Step]) -> xr.Dataset:
    """Every token produced and the step it came from (token): the group ``text`` of a run."""
    return _drop(text_of_many([[steps]]), "run", "prompt")


def text_of_many(cells: Sequence[Sequence[Sequence[Step]]]) -> xr.Dataset:
    """Tokens (run, prompt, token), the step that made each and whether it was drafted, padded with -1."""
    length = max((sum(len(step.tokens) for step in steps) for row in cells for steps in row), default=0)
    shape = (len(cells), len(cells[0]) if cells else 0, length)
    tokens, made_by, drafted = (np.full(shape, -1, dtype=np.int32) for _ in range(3))
    for run, row in enumerate(cells):
        for prompt, steps in enumerate(row):
            written = [
                (token, place, int(number < step.accepted))
                for place, step in enumerate(steps)
                for number, token in enumerate(step.tokens)
            ]
            for target, values in zip((tokens, made_by, drafted), zip(*written)):
                target[run, prompt, : len(written)] = values
    data = {
        "id": trace.variable("run prompt token", tokens, "token id", "token"),
        "step": trace.variable("run prompt token", made_by, "step", "step that made the token"),
        "accepted_draft": trace.variable("run prompt token", drafted, "1", "whether the token came from a draft"),
    }
    return xr.Dataset(data, coords=_places(run=shape[0], prompt=shape[1], token=length))


def layers_dataset(steps: Sequence[Step], layers: int) -> xr.Dataset:
    """What every layer did in every step (step, layer): the group ``layers`` of a run."""
    return _drop(layers_of_many([[steps]], layers), "run", "prompt")


def layers_of_many(cells: Sequence[Sequence[Sequence[Step]]], layers: int) -> xr.Dataset:
    """What every layer did (run, prompt, step, layer), padded with -1 or NaN.

    Parameters
    ----------
    cells : sequence of sequence of sequence of Step
    layers : int
        Of the main model; a larger model that took a step widens the result.
    """
    flat = [step for row in cells for steps in row for step in steps]
    layers = max(
        [layers, *(len(step.keys_kept) for step in flat), *(1 + max(step.layers, default=-1) for step in flat)]
    )
    length = max((len(steps) for row in cells for steps in row), default=0)
    shape = (len(cells), len(cells[0]) if cells else 0, length, layers)
    passes = np.full(shape, -1, dtype=np.int16)
    read, kept = (np.full(shape, np.nan, dtype=np.float32) for _ in range(2))
    for run, row in enumerate(cells):
        for prompt, steps in enumerate(row):
            for place, step in enumerate(steps):
                here = run, prompt, place
                ran = np.asarray(step.layers, dtype=int)
                passes[here] = count = np.bincount(ran, minlength=layers)
                sums = np.bincount(ran, weights=np.asarray(step.keys_read, dtype=float), minlength=layers)
                read[here] = np.where(count > 0, sums / np.maximum(count, 1), np.nan)
                kept[here][: len(step.keys_kept)] = step.keys_kept
    dims = "run prompt step layer"
    data = {
        "passes": trace.variable(dims, passes, "passes", "times the layer ran"),
        "keys_read": trace.variable(dims, read, "keys", "keys read by a query, mean over its passes"),
        "keys_kept": trace.variable(dims, kept, "keys", "keys in the layer's cache after the step"),
    }
    return xr.Dataset(data, coords=_places(run=shape[0], prompt=shape[1], step=length, layer=layers))


def drafts_dataset(steps: Sequence[Step]) -> xr.Dataset:
    """Every drafted token (node): the group ``drafts`` of a run, whose run and prompt are 0."""
    return drafts_of_many([[steps]])


def drafts_of_many(cells: Sequence[Sequence[Sequence[Step]]]) -> xr.Dataset:
    """Every drafted token (node), in long format: trees of many sizes would be mostly padding.

    The nodes of a step stand together and in their order; ``parent`` is a place among them, -1 for the last accepted
    token, whose children have depth 1. ``confidence`` is NaN where the drafter has no view.
    """
    rows: list[tuple[int, int, int, int, int, int, bool, float]] = []
    for run, row in enumerate(cells):
        for prompt, steps in enumerate(row):
            for place, step in enumerate(steps):
                depths: list[int] = []
                for token, parent, kept, chance in step.nodes:
                    depths.append(1 if parent < 0 else depths[parent] + 1)
                    chance = np.nan if chance is None else chance
                    rows.append((run, prompt, place, token, parent, depths[-1], kept, chance))
    columns = list(zip(*rows)) or [()] * len(_NODE)
    data = {
        name: trace.variable("node", np.asarray(values, dtype=dtype), units, long_name)
        for (name, (dtype, units, long_name)), values in zip(_NODE.items(), columns)
    }
    return xr.Dataset(data, coords=_places(node=len(rows)))


def drafted(drafts: xr.Dataset) -> set[int]:
    """Token ids in the group ``drafts``."""
    return set(np.unique(drafts["token"]).tolist())


def sums(steps: Sequence[Step]) -> dict[str, float]:
    """Counts of a whole run: the part of ``scores`` that its steps alone decide, as the facts' ``of_run`` define it."""
    return {fact.name: fact.of_run(steps) for fact in OF_RUN}


def speed(steps: Sequence[Step]) -> tuple[float, float]:
    """Tokens decoded for each second after the first token, and the time to the first token [s], from the steps' own
    clocks; NaN where there is nothing yet."""
    seconds = sum(step.seconds for step in steps[1:])
    tokens = sum(len(step.tokens) for step in steps[1:])
    return tokens / seconds if tokens and seconds else float("nan"), steps[0].seconds if steps else float("nan")


def _places(**sizes: int) -> dict[str, np.ndarray]:
    return {name: np.arange(size) for name, size in sizes.items()}


def _drop(dataset: xr.Dataset, *dims: str) -> xr.Dataset:
    return dataset.isel({dim: 0 for dim in dims}, drop=True)
