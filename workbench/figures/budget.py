"""What exits with budgets promised, and what was met on other text."""

from __future__ import annotations

import json

import altair as alt
import numpy as np
import xarray as xr

from workbench.figures._figure import ROWS, figure
from workbench.figures._reduce import frame, spread
from workbench.figures._text import heading, visible
from workbench.figures._theme import CATEGORIES

_KINDS = {"average": "average FLOPs", "peak": "peak FLOPs", "memory": "memory"}


@figure(*(f"budget/{kind}_{what}" for kind in _KINDS for what in ("promised", "met")))
def budget(tree: xr.DataTree) -> alt.TopLevelMixin:
    """A point for each budget: below the diagonal what was met is within what was promised.

    Parameters
    ----------
    tree : DataTree
        Of :func:`workbench.budget_met`.
    """
    data = tree["budget"].to_dataset()
    kept = spread(data.sizes["budget"], ROWS // len(_KINDS) - 2)
    names = json.loads(tree.attrs.get("budgets", "[]")) or [""] * data.sizes["budget"]
    columns = {
        "kind": np.repeat(list(_KINDS.values()), len(kept)),
        "technique": np.tile([visible(names[place]) for place in kept], len(_KINDS)),
    }
    for what in ("asked", "promised", "met"):
        columns[what] = np.concatenate([data[f"{kind}_{what}"].values[kept] for kind in _KINDS])
    for name in ("layers", "agreement"):
        columns[name] = np.tile(data[name].values[kept], len(_KINDS))
    table = frame(columns)
    least = float(min(table["promised"].min(), table["met"].min()))
    most = float(max(table["promised"].max(), table["met"].max()))
    domain = [max(0.0, least - 0.05), most + 0.05]
    points = (
        alt.Chart(table)
        .mark_point(filled=True, size=70, opacity=0.9)
        .encode(
            x=alt.X("promised:Q", title="promised, of the full model's", scale=alt.Scale(domain=domain)),
            y=alt.Y("met:Q", title="met on other text, counted", scale=alt.Scale(domain=domain)),
            color=alt.Color("kind:N", title="budget of", sort=list(_KINDS.values()),
                            scale=alt.Scale(domain=list(_KINDS.values()), range=CATEGORIES[: len(_KINDS)])),
            shape=alt.Shape("kind:N", title="budget of", sort=list(_KINDS.values())),
            tooltip=[alt.Tooltip("technique:N"), alt.Tooltip("kind:N", title="budget of"),
                     alt.Tooltip("asked:Q", format=".3f"), alt.Tooltip("promised:Q", format=".3f"),
                     alt.Tooltip("met:Q", format=".3f"), alt.Tooltip("layers:Q", title="layers a token", format=".1f"),
                     alt.Tooltip("agreement:Q", title="top-1 agreement", format=".3f")],
        )
    )  # fmt: skip
    ends = frame({"promised": np.array(domain), "met": np.array(domain)})
    line = alt.Chart(ends).mark_line(color=CATEGORIES[6], strokeDash=[4, 3]).encode(x="promised:Q", y="met:Q")
    title = heading(
        f"Budgets promised and met by exits of {tree.attrs['model']}",
        "Shares of what the full model takes on the same prompts. Promised on the calibration text; below the line a "
        "run took less than that.",
    )
    return (line + points).properties(title=title, width=420, height=420)
