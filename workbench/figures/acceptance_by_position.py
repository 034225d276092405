"""How far drafts hold: the share kept at each position of a draft, for each run and task."""

from __future__ import annotations

from typing import Literal

import altair as alt
import numpy as np
import pandas as pd
import xarray as xr

from workbench.figures._drafts import drafting, nodes
from workbench.figures._figure import figure
from workbench.figures._parts import cell
from workbench.figures._runs import labels
from workbench.figures._text import heading, shorten
from workbench.figures._theme import BRIGHT, LETTERS, SEQUENTIAL

CELLS = 4500
ROOM, GAP, LEAST = 780, 22, 90  # pixels for panels in a row, between them, and of the narrowest
ALL = "all tasks"
MEANINGS = {
    "drafted": "share of the drafts so long that were kept up to there",
    "reached": "share kept where everything before was kept",
}


@figure("drafts/depth", "drafts/kept")
def acceptance_by_position(
    tree: xr.DataTree, *, of: Literal["drafted", "reached"] = "drafted", positions: int = 16
) -> alt.TopLevelMixin:
    """A map for each task: runs down, positions in the draft across, the share kept as colour and number.

    Of a tree a position is a depth: it counts once for each step that drafted so deep, and as kept if any of its tokens
    was.

    Parameters
    ----------
    tree : DataTree or Study
    of : {"drafted", "reached"}
        Kept of all drafts so long, or only of those that were kept up to the position before: how drafts fade, or where
        they break.
    positions : int
        How many are shown, from the first on.
    """
    names = [labels(tree, 28)[run] for run in drafting(tree)]
    table, deepest = _shares(tree, of)
    panels = table["task"].unique().tolist()
    shown = max(min(positions, deepest, CELLS // (len(panels) * len(names))), 1)
    table = table[table["position"] <= shown]
    side = cell(shown, 420, 17, 30)
    notes = (
        f"Colour and number: {MEANINGS[of]} [%].",
        "A depth of a tree counts as kept if one of its tokens was." if _branches(tree) else "",
        f"The first {shown} of {deepest} positions are shown." if shown < deepest else "",
    )
    across = max(int(ROOM // (max(shown * side, LEAST) + GAP)), 1)
    drawn = [
        _panel(table[table["task"] == task], names, shown, side, MEANINGS[of], named=number % across == 0)
        for number, task in enumerate(panels)
    ]
    rows = [alt.hconcat(*drawn[i : i + across], spacing=GAP) for i in range(0, len(drawn), across)]
    chart = alt.vconcat(*rows, spacing=14)
    return chart.properties(title=heading("Acceptance by position in the draft", " ".join(filter(None, notes))))


def _panel(
    table: pd.DataFrame, names: list[str], shown: int, side: float, meaning: str, *, named: bool
) -> alt.LayerChart:
    axis = alt.Axis(labelLimit=190, minExtent=150, maxExtent=200, ticks=False, domain=False)
    base = alt.Chart(table).encode(
        x=alt.X("position:O", title="position", scale=alt.Scale(domain=list(range(1, shown + 1))))
        .axis(labelAngle=0, ticks=False, domain=False),
        y=alt.Y("run:N", sort=names, title=None, scale=alt.Scale(domain=names), axis=axis if named else None),
        tooltip=[alt.Tooltip("run:N"), alt.Tooltip("task:N"), alt.Tooltip("position:O"),
                 alt.Tooltip("share:Q", title="kept", format=".1%"), alt.Tooltip("steps:Q", title="of drafts")],
    )  # fmt: skip
    cells = base.mark_rect().encode(
        color=alt.Color("share:Q", scale=alt.Scale(scheme=SEQUENTIAL, domain=[0, 1]))
        .legend(title=meaning, orient="bottom", format="%", gradientLength=240)
    )  # fmt: skip
    numbers = base.mark_text(fontSize=10).encode(text=alt.Text("percent:Q", format=".0f"), color=LETTERS)
    width = max(shown * side, LEAST)
    title = alt.TitleParams(text=shorten(table["task"].iloc[0], int(width / 6.5)), fontSize=12, offset=4, frame="group")
    return alt.layer(cells, numbers).properties(width=width, height=alt.Step(20), title=title)


def _shares(tree: xr.DataTree, of: str) -> tuple[pd.DataFrame, int]:
    """Share of the drafts kept for each task, run and position, all tasks first, and the last position."""
    table = nodes(tree)
    if of == "reached":
        table = table[table["reached"]]
    names = labels(tree, 28)
    each = table.groupby(["run", "prompt", "step", "depth"]).agg(kept=("kept", "max"), task=("task", "first"))
    each = each.reset_index()
    parts = [each.assign(task=ALL)] if each["task"].nunique() > 1 else []
    whole = pd.concat([*parts, each])
    shares = whole.groupby(["task", "run", "depth"], sort=False)["kept"].agg(["mean", "size"]).reset_index()
    bins = pd.DataFrame(
        {
            "task": shares["task"],
            "run": [names[run] for run in shares["run"]],
            "position": shares["depth"].astype(int),
            "share": shares["mean"].round(5),
            "percent": (100 * shares["mean"]).round(3),
            "steps": shares["size"].astype(int),
        }
    )
    bins["bright"] = bins["share"] > BRIGHT
    return bins, int(table["depth"].max())


def _branches(tree: xr.DataTree) -> bool:
    """Whether any draft was a tree rather than a chain."""
    drafts = tree["drafts"].to_dataset()
    same = [drafts[name].values for name in ("run", "prompt", "step", "depth")]
    return len(np.unique(np.stack(same), axis=1).T) < drafts.sizes["node"]
