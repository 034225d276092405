"""How fast the residual stream moves from block to block, and how nearly it points where it ends."""

from __future__ import annotations

import altair as alt
import numpy as np
import pandas as pd
import xarray as xr

from workbench.figures._figure import ROWS, figure
from workbench.figures._parts import cell, heat_map, sparse_axis
from workbench.figures._reduce import frame, spread
from workbench.figures._text import Texts, heading, shorten
from workbench.figures._theme import CATEGORIES

_LINES = {
    "speed": ("block", "move / stream"),
    "heading": ("block", "move towards the end"),
    "arrival": ("layer", "cosine with the end"),
    "accelerated": ("layer", "of the faster stream"),
}


@figure("probes/residual_velocity/speed", "probes/residual_velocity/arrival")
def residual_velocity(tree: xr.DataTree) -> alt.TopLevelMixin:
    """Medians over positions, with their quartiles, over the cosine with the end for every layer and position.

    Parameters
    ----------
    tree : DataTree or Study
        With ``probes/residual_velocity``.
    """
    data = tree["probes/residual_velocity"].to_dataset()
    panels = [_line(data[name], color) for name, color in zip(_LINES, CATEGORIES) if name in data]
    title = heading(
        f"Velocity of the residual stream of {tree.attrs['model']}",
        f"Medians over {data.sizes['position']} positions; the bands are between the quartiles. Move: its length over "
        "that of the stream before it (logarithmic), and its cosine with the way left to where the stream ends. "
        "Below: how nearly the stream points there"
        + (", and one that accelerators bring ahead of it." if "accelerated" in data else "."),
    )
    return alt.vconcat(*panels, _map(tree, data["arrival"], ROWS // 2)).properties(title=title)


def _line(array: xr.DataArray, color: str) -> alt.LayerChart:
    depth, title = _LINES[str(array.name)]
    low, middle, high = np.quantile(array.transpose(depth, "position").values, [0.25, 0.5, 0.75], axis=1)
    table = frame({"depth": array[depth].values, "low": low, "middle": middle, "high": high})
    logarithmic = array.name == "speed" and low.min() > 0
    scale = alt.Scale(type="log") if logarithmic else alt.Scale(zero=True)
    base = alt.Chart(table).encode(x=alt.X("depth:O", title=depth, axis=sparse_axis(table["depth"], 32)))
    ticks = alt.Axis(format="~g", tickCount=3 if logarithmic else 5)
    across = alt.Y("middle:Q", title=title, scale=scale, axis=ticks)
    hover = [alt.Tooltip("depth:O", title=depth)] + [
        alt.Tooltip(f"{name}:Q", title=said, format=".3~g")
        for name, said in (("middle", "median"), ("low", "lower quartile"), ("high", "upper quartile"))
    ]
    lower = alt.Y("low:Q", title=title, scale=scale, axis=ticks)
    band = base.mark_area(color=color, opacity=0.25).encode(y=lower, y2="high:Q")
    line = base.mark_line(color=color, point={"size": 30, "filled": True, "color": color})
    return (band + line.encode(y=across, tooltip=hover)).properties(width=640, height=120)


def _map(tree: xr.DataTree, array: xr.DataArray, most: int) -> alt.Chart:
    array = array.transpose("layer", "position")
    rows = spread(array.sizes["layer"], 60)
    columns = spread(array.sizes["position"], max(1, most // len(rows)))
    layers, positions = array["layer"].values[rows], array["position"].values[columns]
    names = Texts(tree).named(tree["tokens"].to_dataset())
    table: pd.DataFrame = frame(
        {
            "layer": np.repeat(layers, len(positions)),
            "position": np.tile(positions, len(layers)),
            "token": np.tile(np.array([shorten(names[place], 24) for place in positions], dtype=object), len(layers)),
            "arrival": array.values[np.ix_(rows, columns)],
        }
    )
    chart = heat_map(
        table,
        ("position", "position"),
        ("layer", "after block"),
        ("arrival", "cosine with the end"),
        [alt.Tooltip("token:N"), alt.Tooltip("position:O"), alt.Tooltip("layer:O", title="after block"),
         alt.Tooltip("arrival:Q", title="cosine with the end", format=".3f")],
        side=(cell(len(positions), 640, 3, 20), cell(len(layers), 300, 3, 14)),
    )  # fmt: skip
    chart.encoding.x.axis.labelExpr = alt.Undefined
    return chart
