"""How a training went: loss and accuracies of the steps and of the held-out texts."""

from __future__ import annotations

import json

import altair as alt
import numpy as np
import pandas as pd
import xarray as xr

from workbench.figures._figure import figure
from workbench.figures._text import heading
from workbench.figures._theme import CATEGORIES

POINTS = 150
_NAMES = {"training": "training text (mean of neighbouring steps)", "held_out": "held-out text"}


@figure("training/loss", "held_out/loss")
def loss_curve(tree: xr.DataTree) -> alt.TopLevelMixin:
    """Training and held-out loss by step, and below it what else the recipe reports.

    Parameters
    ----------
    tree : DataTree
        Of :func:`workbench.training.curve.trace`.
    """
    shown = [name for name in tree["held_out"].data_vars if name != "loss"]
    order = list(_NAMES.values())
    charts = []
    for row, variables in enumerate([["loss"], shown]):
        table = pd.DataFrame(
            [entry for group in _NAMES for name in variables for entry in _rows(tree[group].to_dataset(), name, group)],
            columns=["step", "value", "kind", "figure"],
        )
        if table.empty:
            continue
        encoding = {
            "x": alt.X("step:Q", title="optimiser steps taken").axis(format="d", tickMinStep=1),
            "y": alt.Y("value:Q", title="loss [nats]" if row == 0 else "share").scale(zero=row > 0),
            "color": alt.Color("kind:N", title=None).scale(domain=order, range=[CATEGORIES[6], CATEGORIES[0]])
            .legend(orient="bottom", labelLimit=400),
            "tooltip": [alt.Tooltip("figure:N"), alt.Tooltip("step:Q"), alt.Tooltip("value:Q", format=".4~g")],
        }  # fmt: skip
        if row:
            encoding["strokeDash"] = alt.StrokeDash("figure:N", title=None).legend(orient="bottom", columns=4)
        marks = alt.Chart(table).mark_line(point={"size": 18}).encode(**encoding)
        charts.append(marks.properties(width=620, height=180))
    held_out, card = tree["held_out"]["loss"], json.loads(tree.attrs["card"])
    step = card.get("best_step", int(held_out["step"][-1]))
    kept = ", the least, whose part is kept" if "best_step" in card else ""
    note = f"Held-out loss after {step} steps{kept}: {float(held_out.sel(step=step)):.3g} nats."
    chart = alt.vconcat(*charts).resolve_scale(strokeDash="independent")
    return chart.properties(title=heading(f"Training of {tree.attrs['name']}", f"{note} Model: {tree.attrs['model']}."))


def _rows(data: xr.Dataset, name: str, group: str) -> list[dict]:
    """A figure's values, neighbouring steps averaged until there are few enough."""
    if name not in data:
        return []
    values, steps = data[name].values.astype(float), data["step"].values
    width = max(1, -(-len(values) // POINTS))
    return [
        {
            "step": int(steps[min(start + width, len(values)) - 1]),
            "value": float(np.mean(values[start : start + width])),
            "kind": _NAMES[group],
            "figure": name.replace("_", " "),
        }
        for start in range(0, len(values), width)
    ]
