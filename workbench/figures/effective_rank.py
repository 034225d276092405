"""How many directions the hidden states span along a text, and the first and second differences of that."""

from __future__ import annotations

import altair as alt
import numpy as np
import xarray as xr

from workbench.figures._figure import ROWS, figure
from workbench.figures._reduce import frame, spread
from workbench.figures._text import heading
from workbench.figures._theme import SEQUENTIAL

_PANELS = {
    "effective_rank": ("length", "effective rank"),
    "velocity": ("later", "velocity"),
    "acceleration": ("latest", "acceleration"),
}


@figure("probes/effective_rank/effective_rank")
def effective_rank(tree: xr.DataTree) -> alt.TopLevelMixin:
    """Effective rank, velocity and acceleration along the text, a line for each layer.

    Parameters
    ----------
    tree : DataTree or Study
        With ``probes/effective_rank``.
    """
    data = tree["probes/effective_rank"].to_dataset()
    panels = [_panel(data[name]) for name in _PANELS if name in data and data[name].size]
    begin = int(data.attrs.get("begin", 0))
    title = heading(
        f"Effective rank of the hidden states of {tree.attrs['model']}",
        f"Of the tokens after the first {begin}." if begin else "",
        "Velocity: the effective rank less the mean of all looks before. Acceleration: the change of the velocity from "
        "look to look.",
    )
    return alt.vconcat(*panels).properties(title=title)


def _panel(array: xr.DataArray) -> alt.Chart:
    along, title = _PANELS[str(array.name)]
    array = array.transpose("layer", along)
    layers = spread(array.sizes["layer"], 8)
    looks = spread(array.sizes[along], ROWS // (3 * len(layers)))
    table = frame(
        {
            "layer": np.repeat(array["layer"].values[layers], len(looks)),
            "tokens": np.tile(array[along].values[looks], len(layers)),
            "value": array.values[np.ix_(layers, looks)],
        }
    )
    return (
        alt.Chart(table)
        .mark_line(point={"size": 24, "filled": True})
        .encode(
            x=alt.X("tokens:Q", title="tokens looked at"),
            y=alt.Y("value:Q", title=title, scale=alt.Scale(zero=True)),
            color=alt.Color("layer:O", title="after block", scale=alt.Scale(scheme=SEQUENTIAL)),
            tooltip=[alt.Tooltip("layer:O", title="after block"), alt.Tooltip("tokens:Q"),
                     alt.Tooltip("value:Q", title=title, format=".4~g")],
        )
        .properties(width=640, height=130)
    )  # fmt: skip
