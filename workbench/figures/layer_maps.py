"""How well every layer of one model gives every layer of another by a linear map."""

from __future__ import annotations

import altair as alt
import numpy as np
import xarray as xr

from workbench.figures._figure import ROWS, figure
from workbench.figures._parts import cell, heat_map, sparse_axis
from workbench.figures._reduce import frame, spread
from workbench.figures._text import heading
from workbench.figures._theme import CATEGORIES, SEQUENTIAL


@figure("layer_maps/error", "layer_maps/best_layer")
def layer_maps(tree: xr.DataTree) -> alt.TopLevelMixin:
    """A map of the errors on held-out text, with the best layer for each of the other model's marked.

    Parameters
    ----------
    tree : DataTree
        Of :func:`workbench.studies.layer_maps.layer_maps`.
    """
    data = tree["layer_maps"].to_dataset()
    array = data["error"].transpose("layer", "other_layer")
    rows, columns = (spread(size, int(np.sqrt(ROWS)) - 2) for size in array.shape)
    table = frame(
        {
            "layer": np.repeat(array["layer"].values[rows], len(columns)),
            "other": np.tile(array["other_layer"].values[columns], len(rows)),
            "error": array.values[np.ix_(rows, columns)],
            "shown": array.values[np.ix_(rows, columns)].clip(max=1.0),
        }
    )
    other = str(data.attrs.get("other", "the other model"))
    hover = [
        alt.Tooltip("layer:O", title=f"layer of {tree.attrs['model']}"),
        alt.Tooltip("other:O", title=f"layer of {other}"),
        alt.Tooltip("error:Q", title="unexplained", format=".3~g"),
    ]
    chart = heat_map(
        table,
        ("other", f"layer of {other}"),
        ("layer", f"layer of {tree.attrs['model']}"),
        ("shown", "unexplained share"),
        hover,
        side=(cell(len(columns), 420, 4, 24), cell(len(rows), 420, 4, 24)),
        domain=(0.0, 1.0),
    )
    chart.encoding.color.scale = alt.Scale(scheme=SEQUENTIAL, domain=[0, 1], reverse=True)
    chart.encoding.x.axis = sparse_axis(table["other"], 12)
    best = frame(
        {"other": data["other_layer"].values[columns], "layer": data["best_layer"].values[columns]}
        | {name: data[name].values[columns] for name in ("best_depth", "own_depth")}
    )
    kept = best["layer"].isin(set(table["layer"]))
    marks = (
        alt.Chart(best[kept])
        .mark_point(color=CATEGORIES[1], filled=True, size=30)
        .encode(
            x=alt.X("other:O", title=f"layer of {other}"),
            y=alt.Y("layer:O", title=f"layer of {tree.attrs['model']}", sort="descending"),
            tooltip=[alt.Tooltip("layer:O", title="fits best"), alt.Tooltip("other:O", title=f"layer of {other}"),
                     alt.Tooltip("best_depth:Q", title="relative depth of the best", format=".2f"),
                     alt.Tooltip("own_depth:Q", title="relative depth of its own", format=".2f")],
        )
    )  # fmt: skip
    title = heading(
        f"Linear maps from the layers of {tree.attrs['model']} to those of {other}",
        "Share of the variance of held-out states that is left unexplained; the dot is the layer that fits best. On "
        "the diagonal: the same relative depth. Shares of more than 1 have the colour of 1.",
    )
    return (chart + marks).properties(title=title)
