"""How much more compute would spare each token, and where."""

from __future__ import annotations

import altair as alt
import numpy as np
import xarray as xr

from workbench.figures._figure import ROWS, figure
from workbench.figures._parts import cell, sparse_axis
from workbench.figures._reduce import frame
from workbench.figures._text import Texts, heading, shorten
from workbench.figures._theme import CATEGORIES, SEQUENTIAL


@figure("tokens/id", "probes/token_difficulty/loss", "probes/token_difficulty/difficulty")
def token_difficulty(tree: xr.DataTree, *, last: int = 60) -> alt.TopLevelMixin:
    """Least loss of every token's successor by budget, what the budget spares, and the layers it is spent on.

    Parameters
    ----------
    tree : DataTree or Study
        With ``probes/token_difficulty``.
    last : int
        How many tokens are shown, counted from the end of the text.
    """
    data = tree["probes/token_difficulty"].to_dataset()
    total = data.sizes["token"]
    kept = max(1, min(total, last, ROWS // data.sizes["budget"]))
    shown = data.isel(token=slice(max(0, total - kept), None))
    places, texts = shown["token"].values, Texts(tree).named(tree["tokens"].to_dataset())
    labels = np.array([f"{place} {shorten(texts[place + 1], 14)}" for place in places], dtype=object)
    most = int(data["budget"].values[-1])
    title = heading(
        f"How much big MLPs help tokens of {tree.attrs['model']}",
        "Least loss found of the token that follows, over ways with at most so many big MLPs, the others small or "
        f"none; difficulty is what {most} of them spare. Tokens before are computed whole. Circles: all MLPs big.",
        f"The last {kept} of {total} tokens that were looked at." if kept < total else "",
    )
    return alt.vconcat(_losses(shown, labels), _difficulty(shown, labels), _layers(data, most)).properties(title=title)


def _axis(last: bool) -> alt.X:
    labels = {"labelAngle": -90, "labelLimit": 110, "labelOverlap": True} if last else {"labels": False}
    title = "token to be foretold, with the position of the one before it" if last else None
    return alt.X("token:N", sort=None, title=title).axis(ticks=False, domain=False, **labels)


def _losses(data: xr.Dataset, labels: np.ndarray) -> alt.LayerChart:
    budgets = data["budget"].values
    loss = data["loss"].transpose("budget", "token").values
    table = frame({"token": np.tile(labels, len(budgets)), "budget": np.repeat(budgets, len(labels)), "loss": loss})
    hover = [alt.Tooltip("token:N"), alt.Tooltip("budget:O", title="most big MLPs"),
             alt.Tooltip("loss:Q", title="least loss [nats]", format=".3f")]  # fmt: skip
    colour = alt.Color("budget:O", title="most big MLPs").scale(scheme=SEQUENTIAL)
    ticks = alt.Chart(table).mark_tick(thickness=3).encode(
        x=_axis(False), y=alt.Y("loss:Q", title="least loss [nats]"), color=colour, tooltip=hover
    )  # fmt: skip
    whole = frame({"token": labels, "loss": data["whole_loss"].values})
    marks = alt.Chart(whole).mark_point(color=CATEGORIES[1], size=28).encode(
        x=_axis(False), y=alt.Y("loss:Q", title="least loss [nats]"),
        tooltip=[alt.Tooltip("token:N"), alt.Tooltip("loss:Q", title="all big [nats]", format=".3f")],
    )  # fmt: skip
    return (ticks + marks).properties(width=alt.Step(cell(len(labels), 640, 6, 26)), height=180)


def _difficulty(data: xr.Dataset, labels: np.ndarray) -> alt.Chart:
    table = frame({"token": labels, "difficulty": data["difficulty"].values})
    hover = [alt.Tooltip("token:N"), alt.Tooltip("difficulty:Q", title="difficulty [nats]", format=".3f")]
    bars = alt.Chart(table).mark_bar(color=CATEGORIES[0])
    chart = bars.encode(x=_axis(True), y=alt.Y("difficulty:Q", title="difficulty [nats]"), tooltip=hover)
    return chart.properties(width=alt.Step(cell(len(labels), 640, 6, 26)), height=110)


def _layers(data: xr.Dataset, most: int) -> alt.Chart:
    table = frame({"block": data["block"].values, "big": data["big"].values})
    hover = [alt.Tooltip("block:O", title="block"), alt.Tooltip("big:Q", title="tokens", format=".0%")]
    share = alt.Y("big:Q", title="tokens that take big", axis=alt.Axis(format="%")).scale(domain=[0, 1])
    across = alt.X(
        "block:O", title=f"block (best ways of at most {most} big MLPs)", axis=sparse_axis(table["block"], 32)
    )
    return alt.Chart(table).mark_bar(color=CATEGORIES[2]).encode(x=across, y=share, tooltip=hover).properties(
        width=640, height=90
    )  # fmt: skip
