"""The earliest layer that each token could have left at, and what that would save."""

from __future__ import annotations

import json

import altair as alt
import numpy as np
import xarray as xr

from workbench.figures._figure import ROWS, figure
from workbench.figures._parts import cell
from workbench.figures._reduce import frame
from workbench.figures._text import Texts, heading, shorten
from workbench.figures._theme import CATEGORIES, SEQUENTIAL

_SAID = {
    "agrees": "first agrees", "settled": "agrees from here on", "close": "close from here on",
    "probability": "probability", "margin": "margin", "entropy": "entropy", "saturation": "saturation",
}  # fmt: skip


@figure("tokens/id", "probes/exit_oracle/exit_layer", "probes/exit_oracle/right")
def exit_oracle(tree: xr.DataTree, *, last: int = 60) -> alt.TopLevelMixin:
    """Layers saved and answers right by criterion, over the exit layer of every token.

    Parameters
    ----------
    tree : DataTree or Study
        With ``probes/exit_oracle``.
    last : int
        How many tokens of the text are shown one by one, counted from its end.
    """
    data = tree["probes/exit_oracle"].to_dataset()
    names = [_SAID.get(name, name) for name in json.loads(data.attrs["criteria"])]
    total = data.sizes["token"]
    kept = min(total, max(1, last), ROWS // (2 * len(names)))
    title = heading(
        f"Where tokens of {tree.attrs['model']} could leave",
        "The first three know the last layer; the others are confidences, and leave above "
        f"{data.attrs['threshold']:g}. Close: within {data.attrs['divergence']:g} nats of the last layer.",
        f"Below, the last {kept} of {total} tokens are shown; outlined are those that would say another token."
        if kept < total
        else "Below, outlined are those that would say another token.",
    )
    panels = _shares(data, names), _tokens(tree, data.isel(token=slice(total - kept, None)), names)
    return alt.vconcat(*panels).resolve_scale(color="independent").properties(title=title)


def _shares(data: xr.Dataset, names: list[str]) -> alt.HConcatChart:
    table = frame({"criterion": np.array(names, dtype=object), "saved": data["layers_saved"].values,
                   "right": data["right_share"].values})  # fmt: skip
    hover = [alt.Tooltip("criterion:N"), alt.Tooltip("saved:Q", title="layers saved", format=".1%"),
             alt.Tooltip("right:Q", title="tokens right", format=".1%")]  # fmt: skip
    base = alt.Chart(table).encode(y=alt.Y("criterion:N", sort=names, title="leaves when it"), tooltip=hover)
    panels = []
    for field, title, colour in (("saved", "layers saved", CATEGORIES[0]), ("right", "tokens right", CATEGORIES[2])):
        across = alt.X(f"{field}:Q", title=title, axis=alt.Axis(format="%")).scale(domain=[0, 1])
        panels.append(base.mark_bar(color=colour).encode(x=across).properties(width=250, height=alt.Step(18)))
    return alt.hconcat(*panels)


def _tokens(tree: xr.DataTree, data: xr.Dataset, names: list[str]) -> alt.LayerChart:
    places, texts = data["token"].values, Texts(tree).named(tree["tokens"].to_dataset())
    labels = np.array([f"{place} {shorten(texts[place], 14)}" for place in places], dtype=object)
    table = frame(
        {
            "criterion": np.repeat(np.array(names, dtype=object), len(places)),
            "token": np.tile(labels, len(names)),
            "layer": data["exit_layer"].values,
            "right": data["right"].values.astype(bool),
        }
    )
    layers = tree["probes/exit_oracle"].sizes["layer"]
    colour = alt.Color("layer:Q", legend=alt.Legend(title="leaves after block", gradientLength=160, format="d"))
    base = alt.Chart(table).encode(
        x=alt.X("token:N", sort=None, title="token of the text, with its position").axis(
            labelAngle=-90, labelLimit=110, labelOverlap=True, ticks=False, domain=False
        ),
        y=alt.Y("criterion:N", sort=names, title="leaves when it"),
        tooltip=[alt.Tooltip("token:N"), alt.Tooltip("criterion:N"),
                 alt.Tooltip("layer:Q", title="leaves after block"), alt.Tooltip("right:N", title="right")],
    )  # fmt: skip
    cells = base.mark_rect().encode(color=colour.scale(scheme=SEQUENTIAL, domain=[0, layers - 1]))
    wrong = base.mark_rect(fillOpacity=0, stroke=CATEGORIES[1], strokeWidth=2).transform_filter("!datum.right")
    side = cell(len(places), 640, 4, 26)
    return alt.layer(cells, wrong).properties(width=alt.Step(side), height=alt.Step(18))
