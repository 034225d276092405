"""What each attention and MLP sublayer adds to the residual stream, and what the model loses without the block."""

from __future__ import annotations

import altair as alt
import numpy as np
import pandas as pd
import xarray as xr

from workbench.figures._figure import figure
from workbench.figures._parts import sparse_axis
from workbench.figures._reduce import frame
from workbench.figures._text import heading
from workbench.figures._theme import CATEGORIES

_KINDS = {"attention": CATEGORIES[0], "MLP": CATEGORIES[1]}


@figure("probes/residual_contribution/attention_share", "probes/residual_contribution/mlp_share")
def residual_contribution(tree: xr.DataTree) -> alt.TopLevelMixin:
    """Three panels over the blocks: size and direction of what sublayers add, and the harm of skipping a block.

    Parameters
    ----------
    tree : DataTree or Study
        With ``probes/residual_contribution``.
    """
    data = tree["probes/residual_contribution"].to_dataset()
    blocks = data["block"].values
    panels = [_lines(data, blocks, "share", "size of the addition / stream")]
    if "attention_cosine" in data and "mlp_cosine" in data:
        panels.append(_lines(data, blocks, "cosine", "cosine with the stream"))
    if "skip_kl" in data:
        panels.append(_bars(data, blocks))
    title = heading(
        f"What the blocks of {tree.attrs['model']} add to the residual stream",
        "Mean over tokens. Size: norm of the sublayer's addition over the norm of the stream before it. "
        "The axes of size and KL are linear near zero and logarithmic above.",
    )
    return alt.vconcat(*panels).properties(title=title)


def _blocks(blocks: np.ndarray) -> alt.X:
    return alt.X("block:O", title="block", axis=sparse_axis(blocks, 32))


def _values(field: str, title: str, values: pd.Series) -> alt.Y:
    """An axis from zero on that shows small values beside a few large ones, as first and last blocks have them."""
    largest = float(values.max()) if values.notna().any() else 1.0
    ticks = [0.0] + [tick for power in range(-3, 4) for tick in (10.0**power, 3 * 10.0**power)]
    ticks = [tick for tick in ticks if tick == 0 or largest / 100 <= tick <= largest]
    scale = alt.Scale(type="symlog", constant=max(largest / 100, 1e-6), zero=True)
    return alt.Y(f"{field}:Q", title=title, scale=scale, axis=alt.Axis(values=ticks, format="~g", labelOverlap=True))


def _lines(data: xr.Dataset, blocks: np.ndarray, what: str, title: str) -> alt.Chart:
    table = pd.concat(
        frame({"block": blocks, "sublayer": np.full(len(blocks), kind, dtype=object), "value": data[name].values})
        for kind, name in (("attention", f"attention_{what}"), ("MLP", f"mlp_{what}"))
    )
    shapes = alt.Shape("sublayer:N", title="sublayer").scale(domain=list(_KINDS), range=["circle", "square"])
    return (
        alt.Chart(table)
        .mark_line(point={"size": 36, "filled": True})
        .encode(
            x=_blocks(blocks),
            y=_values("value", title, table["value"]) if what == "share" else alt.Y("value:Q", title=title),
            color=alt.Color("sublayer:N", title="sublayer").scale(domain=list(_KINDS), range=list(_KINDS.values())),
            shape=shapes,
            tooltip=[alt.Tooltip("block:O"), alt.Tooltip("sublayer:N"),
                     alt.Tooltip("value:Q", title=title, format=".3~g")],
        )
        .properties(width=640, height=130)
    )  # fmt: skip


def _bars(data: xr.Dataset, blocks: np.ndarray) -> alt.Chart:
    table = frame({"block": blocks, "kl": data["skip_kl"].values})
    hover = [alt.Tooltip("block:O"), alt.Tooltip("kl:Q", title="KL without the block [nats]", format=".3~g")]
    if "skip_top1_change" in data:
        table["changed"] = data["skip_top1_change"].values
        hover.append(alt.Tooltip("changed:Q", title="top token changes", format=".1%"))
    return (
        alt.Chart(table)
        .mark_bar(color=CATEGORIES[2])
        .encode(
            x=_blocks(blocks),
            y=_values("kl", "KL without it [nats]", table["kl"]),
            tooltip=hover,
        )
        .properties(width=640, height=130)
    )
