"""What a study says about its runs: their names, and numbers over prompts with intervals."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import xarray as xr

from workbench.errors import TraceError
from workbench.figures._text import shorten, visible
from workbench.metrics import Interval, covers, measured, median_interval

INTERVALS = "intervals of 95 % (93.8 % from five prompts, none from fewer)"


def runs(tree: xr.DataTree) -> list[dict[str, Any]]:
    """The runs of a study, each with ``name``, ``technique``, ``exact_declared`` and ``simulated``."""
    listed = json.loads(tree.attrs.get("runs", "[]"))
    return listed or [{"name": "run"}]


def labels(tree: xr.DataTree, length: int = 34) -> list[str]:
    """Names of the runs, visible, short and all different."""
    names: list[str] = []
    for run in runs(tree):
        name = shorten(visible(str(run.get("name", "run")), spaces=False), length)
        same = sum(other == name or other.startswith(f"{name} (") for other in names)
        names.append(f"{name} ({same + 1})" if same else name)
    return names


def index_of(tree: xr.DataTree, run: int | str | None) -> int:
    """Number of a run given by number or name; the last one for None.

    Raises
    ------
    TraceError
        If there is no such run.
    """
    names = [str(item.get("name")) for item in runs(tree)]
    if run is None:
        return len(names) - 1
    if isinstance(run, str) and run in names:
        return names.index(run)
    if isinstance(run, int) and -len(names) <= run < len(names):
        return run % len(names)
    raise TraceError(f"there is no run {run!r}; the study has {', '.join(names)}")


def baseline(tree: xr.DataTree) -> int:
    """Number of the baseline run."""
    return int(tree.attrs.get("baseline", 0))


def hardware(tree: xr.DataTree, name: str | int | None = None) -> tuple[int, str]:
    """Number and name of a piece of modelled hardware; the first one for None.

    Raises
    ------
    TraceError
        If nothing was modelled for it.
    """
    known = [str(item) for item in json.loads(tree.attrs.get("hardware", "[]"))]
    wanted = 0 if name is None else name
    if isinstance(wanted, str) and wanted in known:
        return known.index(wanted), wanted
    if isinstance(wanted, int) and 0 <= wanted < len(known):
        return wanted, known[wanted]
    raise TraceError(f"no cost was modelled for {name!r}; there is {', '.join(known) or 'none'}")


def group(tree: xr.DataTree, name: str) -> xr.Dataset:
    """A group of a study, or of a trace of one run on one prompt as if it were a study."""
    data = tree[name].to_dataset()
    for dim in ("prompt", "run"):
        if dim not in data.dims:
            data = data.drop_vars(dim, errors="ignore").expand_dims(dim)
    return data


def each_token(steps: xr.Dataset, cost: str) -> xr.DataArray:
    """What one token of each step cost: the step's cost over its tokens, NaN where no step was.

    Keys read are those of a query, and are not divided.

    Parameters
    ----------
    steps : Dataset
        Of :func:`group`, with or without its leading dimensions; ``step`` becomes the last.
    cost : str
        A variable of it.
    """
    values = steps[cost].where(steps["tokens"] > 0).transpose(..., "step")
    return values if cost == "keys_read" else values / steps["tokens"].clip(min=1)


def ratio(parts: np.ndarray, tokens: np.ndarray) -> tuple[float, float, float]:
    """A sum over prompts for each token of all prompts, as the study's table has it; a count has no interval."""
    total = np.nansum(np.where(np.isnan(parts), 0, tokens))
    return float(np.nansum(parts) / total) if total else float("nan"), float("nan"), float("nan")


def decoded(tree: xr.DataTree) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of decode steps, and decode steps, both (run, prompt): what is after the prefill and its token."""
    tokens = group(tree, "steps")["tokens"].transpose("run", "prompt", "step").isel(step=slice(1, None))
    return tokens.clip(min=0).sum("step").values, (tokens >= 0).sum("step").values


def comparable(tree: xr.DataTree) -> np.ndarray:
    """Which runs [run] have their speed from the baseline's prompts; see :func:`workbench.metrics.covers`."""
    written = tree["scores/new_tokens"].transpose("run", "prompt").values
    return covers(written, written[baseline(tree)])


def counted(interval: Interval) -> str:
    """How many prompts a number comes from, of how many."""
    return f"{interval.n} of {interval.of}"


def speed_point(name: str, values: np.ndarray) -> dict[str, Any]:
    """What a chart of points says of a run's speed-ups [prompt, repeat]: ``speed`` with ``_low`` and ``_high``,
    ``pairs``, and its name in ``run``, with the prompts that count where that is not all."""
    interval = median_interval(measured(values))
    short = f" (n {interval.n})" if interval.n < interval.of else ""
    point = {"run": name + short, "speed": interval.median, "speed_low": interval.low, "speed_high": interval.high}
    return point | {"pairs": counted(interval)}
