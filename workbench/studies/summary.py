"""One run of a study over its prompts, or over some of them, as numbers."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import xarray as xr

from workbench.metrics import measured, median_interval, prompts_needed, stopped_early
from workbench.studies.fact_table import FACTS

TIMINGS = ("tokens_per_second", "speedup", "time_to_first_token")
WITHIN = 0.05
"""Half-width that the summary says the number of prompts for."""


def summarise(tree: xr.DataTree, run: int, prompts: list[int] | None = None) -> dict[str, Any]:
    """What :attr:`workbench.Study.summary` says of a run.

    Parameters
    ----------
    tree : DataTree
        Of a study.
    run : int
    prompts : list of int, optional
        Places of the prompts to take; all if left out.
    """
    where = slice(None) if prompts is None else prompts
    scores = {name: array.values[run, where] for name, array in tree["scores"].data_vars.items()}
    timing = {name: measured(tree["timing"][name].values[run, where]) for name in TIMINGS}
    steps = tree["steps"].to_dataset().isel(run=run, prompt=where, step=slice(1, None))
    decoded, count = float(steps["tokens"].clip(min=0).sum()), int((steps["tokens"] >= 0).sum())
    verified = steps["drafted"] > 0
    nothing = np.full(scores["new_tokens"].shape, np.nan)  # of a fact that the study is older than
    facts = {
        fact.name: _known(fact.over_prompts, scores.get(fact.name, nothing)) for fact in FACTS if fact.over_prompts
    }
    layers = _known(np.nansum, scores["layers_per_token"] * scores["new_tokens"])
    baseline = tree["scores/new_tokens"].values[int(tree.attrs["baseline"]), where]
    return {
        **facts,
        **{
            f"{fact.name}_per_token": _over(steps[fact.name].sum() if fact.name in steps else np.nan, decoded)
            for fact in FACTS
            if fact.per_token
        },
        **{name: median_interval(values) for name, values in timing.items()},
        "prompts": scores["new_tokens"].size,
        "stopped_early": int(stopped_early(scores["new_tokens"], baseline).sum()),
        "prompts_needed": prompts_needed(timing["speedup"]),
        "prompts_needed_within": prompts_needed(timing["speedup"], WITHIN),
        "mean_accepted_tokens": _over(decoded, count),
        "accepted_per_forward": _over(facts["accepted"], float(steps["forwards"].where(verified).sum())),
        "layers_per_token": _over(layers, facts["new_tokens"]),
        "modelled": {
            name: _known(np.nanmedian, tree["modelled/speedup"].values[run, where, number])
            for number, name in enumerate(json.loads(tree.attrs["hardware"]))
        },
    }


def _known(statistic: Any, values: np.ndarray) -> float:
    """A statistic that ignores NaN; NaN, without a warning, where there is nothing else."""
    return np.nan if np.isnan(values).all() else float(statistic(values))


def _over(part: Any, whole: float) -> float:
    return float(part) / whole if whole else np.nan
