"""Which layers say nearly the same: similarity of the residual stream between layers, and what each block changes."""

from __future__ import annotations

import altair as alt
import numpy as np
import xarray as xr

from workbench.figures._figure import ROWS, figure
from workbench.figures._parts import cell, heat_map, sparse_axis
from workbench.figures._reduce import frame, spread
from workbench.figures._text import heading
from workbench.figures._theme import CATEGORIES, SEQUENTIAL


@figure("probes/layer_similarity/cka_directions", "probes/layer_similarity/block_influence")
def layer_similarity(tree: xr.DataTree, *, directions: bool = True) -> alt.TopLevelMixin:
    """Debiased linear CKA between all layers beside the influence of each block.

    Parameters
    ----------
    tree : DataTree or Study
        With ``probes/layer_similarity``.
    directions : bool
        Compare residual streams scaled to length one, so that every position counts the same. Without, a token with a
        huge activation, as many models have, decides the number nearly alone.
    """
    data = tree["probes/layer_similarity"].to_dataset()
    cka = data["cka_directions" if directions else "cka"].transpose("layer", "other_layer")
    total = cka.sizes["layer"]
    kept = spread(total, int(np.sqrt(ROWS - data.sizes["block"])))
    layers = cka["layer"].values
    values = cka.values[np.ix_(kept, kept)]
    table = frame(
        {
            "layer": np.repeat(layers[kept], len(kept)),
            "other": np.tile(layers[kept], len(kept)),
            "cka": values,
        }
    )
    side = cell(len(kept), 380, 4, 24)
    left = heat_map(
        table,
        ("other", "residual stream after block"),
        ("layer", "residual stream after block"),
        ("cka", "linear CKA, debiased"),
        [alt.Tooltip("layer:O", title="after block"), alt.Tooltip("other:O", title="and after block"),
         alt.Tooltip("cka:Q", title="linear CKA, debiased", format=".3f")],
        side=(side, side),
        domain=(0.0, 1.0),
    )  # fmt: skip
    left.encoding.color.legend = alt.Legend(
        title="linear CKA, debiased (0: unrelated, 1: the same up to rotation and scale)",
        titleLimit=420,
        orient="bottom",
        gradientLength=260,
    )
    left.encoding.x.axis = sparse_axis(table["other"], 10)
    blocks = data["block"].values
    bars = frame(
        {"block": blocks, "influence": data["block_influence"].values}
        | ({"cosine": data["input_output_cosine"].values} if "input_output_cosine" in data else {})
    )
    hover = [alt.Tooltip("block:O"), alt.Tooltip("influence:Q", title="block influence", format=".3~g")]
    if "cosine" in bars:
        hover.append(alt.Tooltip("cosine:Q", title="cosine of input and output", format=".3f"))
    right = (
        alt.Chart(bars)
        .mark_bar(color=CATEGORIES[0])
        .encode(
            x=alt.X("influence:Q", title="block influence (1 - cosine)").axis(tickCount=4),
            y=alt.Y("block:O", sort="descending", title="block", axis=sparse_axis(bars["block"])),
            tooltip=hover,
        )
        .properties(width=190, height=side * len(kept))
    )
    notes = (
        f"{data.attrs['positions']} positions are compared." if "positions" in data.attrs else "",
        "Residual streams are scaled to length one: every position counts the same."
        if directions
        else "Residual streams are not scaled: a token with a huge activation decides nearly alone.",
        f"{len(kept)} of {total} layers are shown, evenly spread." if len(kept) < total else "",
    )
    return (left | right).properties(title=heading(f"Similarity of the layers of {tree.attrs['model']}", *notes))


@figure("probes/layer_similarity/angular_distance")
def angular_distance(tree: xr.DataTree) -> alt.TopLevelMixin:
    """What leaving out a run of blocks would turn: the angle between the residual stream before and after it.

    Parameters
    ----------
    tree : DataTree or Study
        With ``probes/layer_similarity`` and its ``angular_distance`` (start_layer, span).
    """
    array = tree["probes/layer_similarity/angular_distance"].transpose("start_layer", "span")
    rows, columns = (spread(size, int(np.sqrt(2 * ROWS)) - 1) for size in array.shape)
    table = frame(
        {
            "start": np.repeat(array["start_layer"].values[rows], len(columns)),
            "span": np.tile(array["span"].values[columns], len(rows)),
            "angle": array.values[np.ix_(rows, columns)],
        }
    ).dropna()
    chart = heat_map(
        table,
        ("start", "first block left out"),
        ("span", "blocks left out"),
        ("angle", "angle / π (0 is the same direction)"),
        [alt.Tooltip("start:O", title="from block"), alt.Tooltip("span:O", title="blocks"),
         alt.Tooltip("angle:Q", title="angle / π", format=".3f")],
        side=(cell(len(rows), 560, 4, 20), cell(len(columns), 360, 4, 18)),
    )  # fmt: skip
    chart.encoding.x.axis.labelExpr = alt.Undefined
    chart.encoding.color.scale = alt.Scale(scheme=SEQUENTIAL, reverse=True)
    return chart.properties(title=heading(f"Angular distance over runs of blocks of {tree.attrs['model']}"))
