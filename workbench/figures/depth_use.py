"""What skipping each block changes in the blocks after it, and in the output, at the same and at later tokens."""

from __future__ import annotations

import altair as alt
import numpy as np
import xarray as xr

from workbench.figures._figure import ROWS, figure
from workbench.figures._parts import cell, heat_map, sparse_axis
from workbench.figures._reduce import frame, spread
from workbench.figures._text import heading
from workbench.figures._theme import CATEGORIES

_KINDS = {"all tokens skip it": ("present", CATEGORIES[0]), "only earlier tokens skip it": ("future", CATEGORIES[1])}


@figure("probes/depth_use/present_effect", "probes/depth_use/future_effect")
def depth_use(tree: xr.DataTree) -> alt.TopLevelMixin:
    """Two maps of what skipping does to later blocks, over what it does to the next-token probabilities.

    Parameters
    ----------
    tree : DataTree or Study
        With ``probes/depth_use``.
    """
    data = tree["probes/depth_use"].to_dataset()
    maps = [_map(data[f"{kind}_effect"], said) for said, (kind, _) in _KINDS.items()]
    title = heading(
        f"What later blocks of {tree.attrs['model']} make of the earlier ones",
        "Largest relative change, over tokens, of what a block adds to the stream when an earlier one is skipped; at "
        "later tokens it comes through attention alone. Changes of more than 1 have the colour of 1.",
        f"{data.attrs['tokens']} tokens." if "tokens" in data.attrs else "",
    )
    panels = [alt.hconcat(*maps)]
    if all(f"{kind}_output" in data for kind, _ in _KINDS.values()):
        panels.append(_output(data))
    return alt.vconcat(*panels).resolve_scale(color="independent", shape="independent").properties(title=title)


def _map(array: xr.DataArray, said: str) -> alt.Chart:
    array = array.transpose("skipped", "block")
    kept = spread(array.sizes["block"], int(np.sqrt(ROWS / 2)) - 2)
    names = array["block"].values[kept]
    table = frame(
        {
            "skipped": np.repeat(names, len(kept)),
            "block": np.tile(names, len(kept)),
            "effect": array.values[np.ix_(kept, kept)],
            "shown": array.values[np.ix_(kept, kept)].clip(max=1.0),
        }
    )
    side = cell(len(kept), 300, 4, 20)
    chart = heat_map(
        table,
        ("block", "effect on block"),
        ("skipped", "skipped block"),
        ("shown", "relative change"),
        [alt.Tooltip("skipped:O", title="skipped block"), alt.Tooltip("block:O", title="effect on block"),
         alt.Tooltip("effect:Q", title="relative change", format=".3~g")],
        side=(side, side),
        domain=(0.0, 1.0),
        layers_up=False,
    )  # fmt: skip
    chart.encoding.x.axis = sparse_axis(table["block"], 12)
    return chart.properties(title=said)


def _output(data: xr.Dataset) -> alt.Chart:
    blocks = data["skipped"].values
    kept = spread(len(blocks), 120)
    table = frame(
        {
            "skipped": np.tile(blocks[kept], len(_KINDS)),
            "who": np.repeat(np.array(list(_KINDS), dtype=object), len(kept)),
            "change": np.concatenate([data[f"{kind}_output"].values[kept] for kind, _ in _KINDS.values()]),
        }
    )
    colors = [color for _, color in _KINDS.values()]
    title = "change of the probabilities"
    return (
        alt.Chart(table)
        .mark_line(point={"size": 30, "filled": True})
        .encode(
            x=alt.X("skipped:O", title="skipped block", axis=sparse_axis(table["skipped"], 32)),
            y=alt.Y("change:Q", title=title, scale=alt.Scale(zero=True)),
            color=alt.Color("who:N", title=None, scale=alt.Scale(domain=list(_KINDS), range=colors)),
            shape=alt.Shape("who:N", title=None, scale=alt.Scale(domain=list(_KINDS), range=["circle", "square"])),
            tooltip=[alt.Tooltip("skipped:O", title="skipped block"), alt.Tooltip("who:N", title="who skips"),
                     alt.Tooltip("change:Q", title=title, format=".3~g")],
        )
        .properties(width=640, height=130)
    )  # fmt: skip
