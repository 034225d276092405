"""What a trained router, an oracle and chance lose at equal budgets of big MLPs."""

from __future__ import annotations

import altair as alt
import numpy as np
import pandas as pd
import xarray as xr

from workbench.figures._figure import figure
from workbench.figures._reduce import frame
from workbench.figures._text import heading
from workbench.figures._theme import CATEGORIES

_LINES = {
    "oracle_loss": "oracle",
    "best_random_loss": "best of some random ways",
    "random_loss": "random, mean",
    "router_loss": "trained router",
}


@figure("routing_gap/oracle_loss", "routing_gap/router_loss")
def routing_gap(tree: xr.DataTree) -> alt.TopLevelMixin:
    """Mean losses over the number of big MLPs, with the model itself as a rule.

    Parameters
    ----------
    tree : DataTree
        Of :func:`workbench.studies.routing_gap.routing_gap`.
    """
    data = tree["routing_gap"].to_dataset()
    tables = []
    for name, said in _LINES.items():
        array = data[name]
        by_budget = "budget" in array.dims
        big = data["budget"].values if by_budget else data["router_big"].mean("place").values
        loss = array.transpose(..., "place").values
        # Twice the standard error of a mean over tokens.
        spread = 2 * loss.std(1, ddof=1) / np.sqrt(loss.shape[1]) if loss.shape[1] > 1 else np.zeros(len(loss))
        mean = loss.mean(1)
        chance = np.full(len(mean), np.nan) if by_budget else data["chance"].values
        columns = {"way": np.full(len(mean), said, dtype=object), "big": big, "loss": mean, "chance": chance}
        tables.append(frame(columns | {"low": mean - spread, "high": mean + spread}))
    table = pd.concat(tables).sort_values(["way", "big"])
    names = list(_LINES.values())
    colour = alt.Color("way:N", title="way of a token").scale(domain=names, range=CATEGORIES[: len(names)])
    budgets = alt.X("big:Q", title="big MLPs of a token (mean, of the router)").scale(
        domain=[0, int(data.attrs["layers"])]
    )
    hover = [alt.Tooltip("way:N"), alt.Tooltip("big:Q", title="big MLPs", format=".1f"),
             alt.Tooltip("loss:Q", title="mean loss [nats]", format=".3f"),
             alt.Tooltip("chance:Q", title="chance it asks", format=".2f")]  # fmt: skip
    base = alt.Chart(table).encode(x=budgets, color=colour)
    across = alt.Y("loss:Q", title="mean loss of the next token [nats]")
    shape = alt.Shape("way:N", title="way of a token").scale(
        domain=names, range=["circle", "square", "triangle-up", "diamond"]
    )
    line = base.mark_line(point={"size": 45, "filled": True}).encode(y=across, shape=shape, tooltip=hover)
    band = base.mark_rule(opacity=0.5).encode(y=alt.Y("low:Q", title="mean loss of the next token [nats]"), y2="high:Q")
    whole = float(data["whole_loss"].mean())
    rule = (
        alt.Chart(frame({"whole": [whole]}))
        .mark_rule(strokeDash=[4, 4])
        .encode(y="whole:Q", tooltip=[alt.Tooltip("whole:Q", title="all big [nats]", format=".3f")])
    )
    title = heading(
        f"Routes of single tokens through {tree.attrs['model']}",
        f"Means over {data.sizes['place']} tokens with two standard errors; the tokens before each are whole. The "
        "oracle knows the next token. Dashed: all MLPs big.",
    )
    return (band + line + rule).properties(width=560, height=300, title=title)
