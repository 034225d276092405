"""Which techniques go together, and under which conditions each runs."""

from __future__ import annotations

import json
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
import xarray as xr

from workbench.figures._figure import figure
from workbench.figures._parts import cell
from workbench.figures._text import heading, shorten, visible
from workbench.figures._theme import CATEGORIES

LOOKS = {"exact together": ("=", CATEGORIES[2]), "runs": ("+", CATEGORIES[0]), "excluded": ("×", CATEGORIES[6]),
         "does not apply": ("·", CATEGORIES[4]), "fails": ("!", CATEGORIES[1])}  # fmt: skip
OTHER = ("?", CATEGORIES[5])  # a status of a later version
MOST = 64  # techniques; 64 x 64 cells and their conditions stay below what a page bears


@figure("compatibility/status", "compatibility/condition_status")
def compatibility(tree: xr.DataTree) -> alt.TopLevelMixin:
    """Two maps of statuses, each a colour and a sign: techniques by condition, and techniques by techniques.

    Techniques stand in the order of the slot they claim first, so that those which fill the same slot form a block.

    Parameters
    ----------
    tree : DataTree
        Of kind ``compatibility``.
    """
    listed = json.loads(tree.attrs["techniques"])
    statuses, reasons = list(json.loads(tree.attrs["statuses"])), json.loads(tree.attrs["reasons"])
    order = sorted(range(len(listed)), key=lambda place: (listed[place]["slots"][0], listed[place]["name"]))[:MOST]
    names = [listed[place]["name"] for place in order]
    conditions = list(json.loads(tree.attrs["conditions"]))
    data = tree["compatibility"].to_dataset()
    under = data["condition_status"].transpose("technique", "condition").values[order]
    pairs = data["status"].transpose("technique", "other").values[np.ix_(order, order)]
    side = cell(len(names), 560, 15, 24)
    left = _map(_cells(names, conditions, under, statuses, reasons), names, conditions, side, named=True)
    right = _map(_cells(names, names, pairs, statuses, reasons), names, names, side, named=False)
    notes = (
        "Alone and with another. " + "; ".join(f"{sign} {name}" for name, (sign, _) in LOOKS.items()) + ".",
        f"The first {MOST} of {len(listed)} techniques are shown." if len(order) < len(listed) else "",
    )
    title = heading(f"Which techniques go together on {tree.attrs['model']}", " ".join(filter(None, notes)))
    return alt.hconcat(left, right, spacing=14).properties(title=title)


def _cells(
    rows: list[str], columns: list[str], places: np.ndarray, statuses: list[str], reasons: dict[str, str]
) -> pd.DataFrame:
    cells = []
    for (row, column), place in np.ndenumerate(places):
        if place >= 0:
            one, other = rows[row], columns[column]
            status = statuses[place]
            reason = reasons.get(f"{one} + {other}", reasons.get(f"{other} + {one}", ""))
            cells.append({"technique": _words(one), "other": _words(other), "status": status,
                          "sign": LOOKS.get(status, OTHER)[0],
                          "reason": shorten(visible(reason, spaces=False), 200) if reason else ""})  # fmt: skip
    return pd.DataFrame(cells, columns=["technique", "other", "status", "sign", "reason"])


def _map(table: pd.DataFrame, rows: list[str], columns: list[str], side: float, *, named: bool) -> alt.LayerChart:
    plain: dict[str, Any] = {"ticks": False, "domain": False, "labelLimit": 260, "labelOverlap": False}
    down, across = list(map(_words, rows)), list(map(_words, columns))
    base = alt.Chart(table).encode(
        x=alt.X("other:N", title=None, sort=across, scale=alt.Scale(domain=across))
        .axis(orient="top", labelAngle=-60, **plain),
        y=alt.Y("technique:N", title=None, sort=down, scale=alt.Scale(domain=down),
                axis=alt.Axis(**plain) if named else None),
        tooltip=[alt.Tooltip("technique:N"), alt.Tooltip("other:N", title="with"), alt.Tooltip("status:N"),
                 alt.Tooltip("reason:N")],
    )  # fmt: skip
    colours = alt.Scale(domain=list(LOOKS), range=[colour for _, colour in LOOKS.values()])
    cells = base.mark_rect(cornerRadius=2, stroke="transparent", strokeWidth=2, opacity=0.9).encode(
        color=alt.Color("status:N", title=None, scale=colours).legend(orient="bottom")
    )
    signs = base.mark_text(fontSize=12, fontWeight="bold", color="#ffffff").encode(text="sign:N")
    return alt.layer(cells, signs).properties(width=alt.Step(side), height=alt.Step(side))


def _words(name: str) -> str:
    return visible(name.replace("_", " "), spaces=False)
