"""Whether a drafter knows when it is right: the chance it gives its tokens against the share that was kept."""

from __future__ import annotations

import altair as alt
import numpy as np
import pandas as pd
import xarray as xr

from workbench.errors import TraceError
from workbench.figures._drafts import nodes
from workbench.figures._figure import figure
from workbench.figures._runs import labels
from workbench.figures._text import heading
from workbench.figures._theme import CATEGORIES

BINS = 10
NORMAL = 1.959964  # half width of a 95 % interval in standard deviations
ACROSS = 4
MOST = 24  # panels


def _views(tree: xr.DataTree) -> bool:
    return bool(np.isfinite(tree["drafts/confidence"].values).any())


@figure("drafts/confidence", "drafts/kept", when=_views)
def draft_calibration(tree: xr.DataTree) -> alt.TopLevelMixin:
    """A panel for each run whose drafter says how sure it is: its chances in ten bins, and what came of them.

    Only tokens whose parent was kept count, since the others could not be kept. Bars are 95 % intervals (Wilson, 1927);
    the area of a point grows with the number of tokens.

    Parameters
    ----------
    tree : DataTree or Study

    Raises
    ------
    TraceError
        If no drafter gave a chance.
    """
    table = nodes(tree)
    table = table[table["reached"] & np.isfinite(table["confidence"])]
    if table.empty:
        raise TraceError("no drafter of this trace says how sure it is of its tokens")
    names = labels(tree, 28)
    parts = [_binned(group).assign(run=names[run]) for run, group in table.groupby("run")]
    bins, most = pd.concat(parts[:MOST]), max(part["tokens"].max() for part in parts[:MOST])
    panels = [_panel(part, name, int(most)) for name, part in bins.groupby("run", sort=False)]
    rows = [alt.hconcat(*panels[i : i + ACROSS], spacing=20) for i in range(0, len(panels), ACROSS)]
    notes = (
        "Ten bins of drafted tokens whose parent was kept; bars: 95 % intervals. Dashed: a drafter that is right. "
        "Under it, the drafter is too sure. Off by: the distance to it, mean over tokens.",
        f"The first {MOST} of {len(parts)} runs are shown." if len(parts) > MOST else "",
    )
    title = heading("Draft probability against acceptance", " ".join(filter(None, notes)))
    return alt.vconcat(*rows, spacing=14).properties(title=title)


def _panel(table: pd.DataFrame, name: str, most: int) -> alt.LayerChart:
    unit = alt.Scale(domain=[0, 1], nice=False)
    x = alt.X("chance:Q", title="drafter's probability", scale=unit).axis(tickCount=3)
    y = alt.Y("share:Q", title="kept (share)", scale=unit).axis(tickCount=3)
    base = alt.Chart(table).encode(x=x, y=y)
    hover = [alt.Tooltip("run:N"), alt.Tooltip("chance:Q", title="mean probability", format=".1%"),
             alt.Tooltip("share:Q", title="kept", format=".1%"), alt.Tooltip("low:Q", format=".1%"),
             alt.Tooltip("high:Q", format=".1%"), alt.Tooltip("tokens:Q")]  # fmt: skip
    ideal = alt.Chart(pd.DataFrame({"chance": [0.0, 1.0], "share": [0.0, 1.0]})).mark_line(
        strokeDash=[4, 3], strokeWidth=1, color=CATEGORIES[6]
    )
    sizes = alt.Scale(domain=[0, most], range=[8, 200])
    layers = [
        ideal.encode(x=x, y=y),
        base.mark_rule(color=CATEGORIES[0], opacity=0.7).encode(y="low:Q", y2="high:Q"),
        base.mark_line(color=CATEGORIES[0], strokeWidth=1, opacity=0.7),
        base.mark_point(color=CATEGORIES[0], filled=True, opacity=1).encode(
            size=alt.Size("tokens:Q", scale=sizes, legend=None), tooltip=hover
        ),
    ]
    off = float(((table["chance"] - table["share"]).abs() * table["tokens"]).sum() / table["tokens"].sum())
    title = alt.TitleParams(text=name, subtitle=f"off by {off:.2f}", fontSize=12, subtitleFontSize=11, offset=6)
    return alt.layer(*layers).properties(width=150, height=150, title=title)


def _binned(table: pd.DataFrame) -> pd.DataFrame:
    chance, kept = table["confidence"].to_numpy(dtype=float), table["kept"].to_numpy(dtype=float)
    place = np.clip((chance * BINS).astype(int), 0, BINS - 1)
    counts = np.bincount(place, minlength=BINS)
    filled = np.flatnonzero(counts)
    count = counts[filled]
    sure, share = (np.bincount(place, weights=values, minlength=BINS)[filled] / count for values in (chance, kept))
    middle = (share + NORMAL**2 / (2 * count)) / (1 + NORMAL**2 / count)
    half = NORMAL / (1 + NORMAL**2 / count) * np.sqrt(share * (1 - share) / count + NORMAL**2 / (4 * count**2))
    columns = {"chance": np.clip(sure, 0, 1), "share": share, "low": middle - half, "high": middle + half}
    return pd.DataFrame(columns).round(5).assign(tokens=count)
