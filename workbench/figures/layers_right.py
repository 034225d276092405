"""At which layers the next token of a text is right, and how much of it no layer gets right."""

from __future__ import annotations

import altair as alt
import numpy as np
import xarray as xr

from workbench.figures._figure import figure
from workbench.figures._reduce import frame
from workbench.figures._text import heading
from workbench.figures._theme import CATEGORIES

_SAID = {"right": "this layer", "so_far": "this or one before"}
_JUDGED = {
    "exit_precision": "said to be right: are", "exit_recall": "are right: found",
    "stop_precision": "said to be hopeless: are", "stop_recall": "are hopeless: found",
}  # fmt: skip


@figure("layers_right/right", "layers_right/so_far", "layers_right/never")
def layers_right(tree: xr.DataTree) -> alt.TopLevelMixin:
    """Shares of tokens by layer with their intervals, the share that is never right, and what a classifier tells.

    Parameters
    ----------
    tree : DataTree
        Of :func:`workbench.layers_right`.
    """
    data = tree["layers_right"].to_dataset()
    never = float(data["never"])
    chart = _lines(data, _SAID, "layer", "tokens that are right", CATEGORIES[:2])
    ceiling = frame({"share": np.array([1 - never]), "label": np.array(["right at some layer"], dtype=object)})
    rule = alt.Chart(ceiling).mark_rule(color=CATEGORIES[6], strokeDash=[4, 3]).encode(
        y="share:Q", tooltip=[alt.Tooltip("label:N", title=" "), alt.Tooltip("share:Q", format=".1%")]
    )  # fmt: skip
    panels = [(chart + rule).properties(width=340, height=260)]
    if "exit_precision" in data:
        judged = _lines(data, _JUDGED, "asked", "of the classifier's tokens", CATEGORIES[2:6])
        panels.append(judged.properties(width=340, height=260))
    title = heading(
        f"Layers of {tree.attrs['model']} that name the next token",
        f"{data.attrs['tokens']:,} tokens of {data.attrs['texts']:,} texts; bands are 95 % intervals over texts. No "
        f"layer gets {never:.1%} right; the dashed line is what is left.",
    )
    return alt.hconcat(*panels).resolve_scale(color="independent", shape="independent").properties(title=title)


def _lines(data: xr.Dataset, names: dict[str, str], axis: str, title: str, colours: tuple[str, ...]) -> alt.LayerChart:
    layers = data[axis].values
    columns = {"what": np.repeat(np.array(list(names.values()), dtype=object), len(layers))}
    columns["layer"] = np.tile(layers, len(names))
    for end in ("", "_low", "_high"):
        columns["share" + end] = np.concatenate([data[name + end].values for name in names])
    kinds = list(names.values())
    scale = alt.Scale(domain=kinds, range=list(colours[: len(kinds)]))
    base = alt.Chart(frame(columns)).encode(
        x=alt.X("layer:Q", title="after layer", axis=alt.Axis(tickMinStep=1)),
        color=alt.Color("what:N", title=None, sort=kinds, scale=scale),
    )
    up = alt.Y("share:Q", title=title, axis=alt.Axis(format="%")).scale(domain=[0, 1])
    hover = [alt.Tooltip("what:N", title=" "), alt.Tooltip("layer:Q"), alt.Tooltip("share:Q", format=".1%"),
             alt.Tooltip("share_low:Q", title="  low", format=".1%"),
             alt.Tooltip("share_high:Q", title="  high", format=".1%")]  # fmt: skip
    line = base.mark_line().encode(y=up)
    shape = alt.Shape("what:N", title=None, sort=kinds)
    points = base.mark_point(filled=True, size=30).encode(y=up, tooltip=hover, shape=shape)
    if not np.isfinite(columns["share_low"]).any():
        return alt.layer(line, points)
    band = base.mark_area(opacity=0.18).encode(y=alt.Y("share_low:Q", title=title), y2="share_high:Q")
    return alt.layer(band, line, points)
