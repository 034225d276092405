"""What a reader of a study's numbers must be told beside them: how many prompts they rest on, where to doubt them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from workbench.cost.hardware import THIS_CPU
from workbench.metrics import covers, measured
from workbench.metrics.intervals import FEWEST
from workbench.metrics.sample_size import spell_count
from workbench.metrics.stopping import TOLERATED

_NAME = 60
FAR = 1.5
"""Measured and modelled speed-up are far apart from this factor on."""


def remarks(tree: xr.DataTree, summary: Sequence[dict[str, Any]]) -> list[str]:
    """Sentences for under the table. Names of runs are in them as they were given, but for their length.

    Parameters
    ----------
    tree : DataTree
        Of a study.
    summary : sequence of dict
        Its :attr:`workbench.Study.summary`.
    """
    runs = [{**run, "name": run["name"][:_NAME]} for run in summary]
    others = [run for place, run in enumerate(runs) if place != int(tree.attrs["baseline"])]
    out = [run["name"] for run, may in zip(runs, comparable(tree)) if not may]
    return [
        *_renewed(tree),
        *_intervals(runs),
        *_stopped(others, out),
        *_noise(tree, others),
        *_modelled(others),
        *_needed(others),
    ]


def comparable(tree: xr.DataTree) -> np.ndarray:
    """Which runs [run] may be on the Pareto front; see :func:`workbench.metrics.covers`."""
    written = tree["scores/new_tokens"].values
    return covers(written, written[int(tree.attrs["baseline"])])


def _renewed(tree: xr.DataTree) -> list[str]:
    """Of a study that found results under the same names for other content."""
    renewed = json.loads(tree.attrs.get("renewed", "{}"))
    return [
        f"Computed anew, since {what[:_NAME]} changed after the results in the folder were kept: {count}."
        for what, count in renewed.items()
    ]


def _intervals(runs: list[dict[str, Any]]) -> list[str]:
    runs = [run for run in runs if run["speedup"].n]
    levels = sorted({(run["speedup"].n, run["speedup"].level) for run in runs if run["speedup"].bounded})
    sentences = []
    if levels:
        each = ", ".join(f"{100 * level:.1f} % ({n} prompts)" for n, level in levels)
        sentences.append(f"[low, high]: exact interval of the median over prompts, at a level of {each}.")
    if any(run["speedup"].n < FEWEST for run in runs):
        sentences.append(f"No interval from fewer than {FEWEST} prompts: such a speed is a median alone.")
    return sentences


def _stopped(runs: list[dict[str, Any]], out: list[str]) -> list[str]:
    early = [
        f"{run['name']} on {run['stopped_early']} of {run['prompts']} prompts ({run['new_tokens']:.0f} tokens in all, "
        f"a speed on {run['speedup'].n})"
        for run in runs
        if run["stopped_early"]
    ]
    sentences = [f"Stopped early, with less than half of the baseline's tokens: {', '.join(early)}."] * bool(early)
    return sentences + [
        f"Not considered for the Pareto front, as they decoded nothing on more than {100 * TOLERATED:.0f} % of the "
        f"prompts or too little in all: {', '.join(out)}."
    ] * bool(out)


def _noise(tree: xr.DataTree, runs: list[dict[str, Any]]) -> list[str]:
    rates = measured(tree["timing/tokens_per_second"].values[int(tree.attrs["baseline"])])
    if np.isnan(rates).all():
        return ["The baseline has no speed on any prompt: no run can be held against it."] * bool(runs)
    rates = rates[(~np.isnan(rates)).sum(1) > 1]
    if not len(rates):
        return ["One repeat of each prompt: how far repeats of the baseline disagree is not known."] * bool(runs)
    apart = float(np.median(np.nanmax(rates, 1) / np.nanmin(rates, 1)))
    doubtful = [run["name"] for run in runs if abs(np.log(run["speedup"].median)) < np.log(apart)]
    return [
        f"Warning: repeats of the baseline on one prompt differ by {100 * (apart - 1):.0f} % (median over prompts), "
        f"more than the effect of {', '.join(doubtful)}."
    ] * bool(doubtful)


def _modelled(runs: list[dict[str, Any]]) -> list[str]:
    far = []
    for run in runs:
        measured, modelled = run["speedup"].median, run["modelled"].get(THIS_CPU, np.nan)
        if abs(np.log(measured / modelled)) > np.log(FAR):
            far.append(f"{run['name']} ({measured:.2f} measured, {modelled:.2f} modelled)")
    return [
        f"Warning: measured and modelled speed-up on this CPU are more than {FAR:g} times apart, so that something "
        f"besides the counted operations and bytes decides: {'; '.join(far)}."
    ] * bool(far)


def _needed(runs: list[dict[str, Any]]) -> list[str]:
    open_ = [run for run in runs if run["speedup"].n and not _decided(run)]
    each = [
        f"{run['name']}: {spell_count(run['prompts_needed'])}" for run in open_ if not np.isnan(run["prompts_needed"])
    ]
    return [
        "Prompts that would be needed, by the spread seen, for an interval that leaves out 1 in four of five such "
        f"studies: {'; '.join(each)}."
    ] * bool(each)


def _decided(run: dict[str, Any]) -> bool:
    return run["speedup"].bounded and not run["speedup"].low <= 1 <= run["speedup"].high
