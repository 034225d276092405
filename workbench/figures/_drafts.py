"""The group ``drafts`` as a table, and which runs drafted at all."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import xarray as xr

from workbench.figures._runs import runs
from workbench.figures._text import shorten, visible


def nodes(tree: xr.DataTree, run: int | None = None) -> pd.DataFrame:
    """Every drafted token, of all runs or of one.

    Returns
    -------
    DataFrame
        The variables of ``drafts``, ``task``, and

        - ``place``: of the node among those of its step;
        - ``reached``: whether all tokens before it were kept, so that it could be kept itself.
    """
    data = tree["drafts"].to_dataset()
    table = pd.DataFrame({name: data[name].values for name in data.data_vars})
    if run is not None:
        table = table[table["run"] == run].reset_index(drop=True)
    same = ["run", "prompt", "step"]
    table["place"] = table.groupby(same, sort=False).cumcount()
    # The nodes of a step stand together, so a parent's place counts from the step's first row.
    first = np.arange(len(table)) - table["place"].to_numpy()
    parent = table["parent"].to_numpy()
    kept = table["kept"].to_numpy() == 1
    table["reached"] = (parent < 0) | kept[first + np.maximum(parent, 0)] if len(table) else False
    table["task"] = np.array(tasks(tree))[table["prompt"].to_numpy(dtype=int)] if len(table) else ""
    return table


def tasks(tree: xr.DataTree) -> list[str]:
    """The task of every prompt, visible and short; ``no task`` for a bare text."""
    prompts = json.loads(tree.attrs.get("prompts", "[]")) or [{}]
    return [shorten(visible(str(prompt.get("task") or "no task"), spaces=False), 26) for prompt in prompts]


def drafting(tree: xr.DataTree) -> list[int]:
    """Numbers of the runs that drafted something."""
    seen = set(np.unique(tree["drafts/run"].values).tolist())
    return [run for run in range(len(runs(tree))) if run in seen]


def drafts_of(tree: xr.DataTree, run: int) -> bool:
    """Whether a run drafted something: what the figures of one run's drafts ask."""
    return run in drafting(tree)
