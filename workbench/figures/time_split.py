"""Where the measured time of a decoded token goes: drafting, the forward that verifies, and bookkeeping."""

from __future__ import annotations

from typing import Literal

import altair as alt
import numpy as np
import pandas as pd
import xarray as xr

from workbench.errors import TraceError
from workbench.figures._figure import figure
from workbench.figures._runs import baseline, group, labels
from workbench.figures._text import heading
from workbench.figures._theme import CATEGORIES

WIDTH = 560
PARTS = {"draft": CATEGORIES[1], "verify": CATEGORIES[0], "bookkeeping": CATEGORIES[6]}


@figure("steps/draft_seconds", "steps/verify_seconds", "steps/seconds", "steps/tokens")
def time_split(tree: xr.DataTree, *, show: Literal["time", "share"] = "time") -> alt.TopLevelMixin:
    """A bar for each run: seconds of its decode steps in three parts, for each decoded token or as shares.

    Parameters
    ----------
    tree : DataTree or Study
    show : {"time", "share"}
        Milliseconds for each decoded token, or shares of the run's own time.

    Raises
    ------
    TraceError
        If no run decoded a token after its first.
    """
    names = labels(tree, 28)
    steps = group(tree, "steps").isel(step=slice(1, None))
    sums = {name: steps[name].transpose("run", "prompt", "step").sum(("prompt", "step")).values
            for name in ("seconds", "draft_seconds", "verify_seconds")}  # fmt: skip
    tokens = steps["tokens"].transpose("run", "prompt", "step").clip(min=0).sum(("prompt", "step")).values
    pairs = (steps["tokens"] > 0).any("step").transpose("run", "prompt").values
    if not tokens.any():
        raise TraceError("no run decoded a token after its first")
    parts = {"draft": sums["draft_seconds"], "verify": sums["verify_seconds"]}
    parts["bookkeeping"] = np.maximum(sums["seconds"] - parts["draft"] - parts["verify"], 0)
    rows = []
    for run in np.flatnonzero(tokens):
        low, whole = 0.0, sum(part[run] for part in parts.values())
        for part, seconds in parts.items():
            each, share = 1e3 * seconds[run] / tokens[run], seconds[run] / whole if whole else 0.0
            width = each if show == "time" else share
            rows.append({"run": names[run], "part": part, "ms": each, "share": share, "low": low, "high": low + width,
                         "tokens": int(tokens[run]), "pairs": f"{pairs[run].sum()} of {pairs[run].size}"})  # fmt: skip
            low += width
    table = pd.DataFrame(rows)
    table["end"] = table["high"].max()
    unit = "[ms]" if show == "time" else "(share)"
    x = alt.X("low:Q", title=f"measured time per decoded token {unit}").axis(
        tickCount=8, format="%" if show == "share" else ",.3~f"
    )
    y = alt.Y("run:N", sort=names, title=None).axis(labelLimit=220, ticks=False, domain=False)
    hover = [alt.Tooltip("run:N"), alt.Tooltip("part:N"), alt.Tooltip("ms:Q", title="per token [ms]", format=".3~g"),
             alt.Tooltip("share:Q", title="of the run's time", format=".1%"),
             alt.Tooltip("tokens:Q", title="decoded tokens"), alt.Tooltip("pairs:N", title="from prompts")]  # fmt: skip
    base = alt.Chart(table).encode(y=y, tooltip=hover)
    bars = base.mark_bar(height={"band": 0.72}).encode(
        x=x,
        x2="high:Q",
        color=alt.Color("part:N", title=None)
        .scale(domain=list(PARTS), range=list(PARTS.values()))
        .legend(orient="bottom"),
    )
    ends = base.transform_filter("datum.part == 'bookkeeping'").mark_text(align="left", dx=6, fontSize=11).encode(
        x="end:Q", text=alt.Text("share:Q", format=".1%")
    )  # fmt: skip
    layers = [bars, ends]
    first = baseline(tree)
    if show == "time" and tokens[first]:
        mark = table[(table["run"] == names[first]) & (table["part"] == "bookkeeping")]
        layers.append(alt.Chart(mark).mark_rule(strokeDash=[4, 3]).encode(x="high:Q"))
    notes = (
        "Verify: the model's forwards, the baseline's too. Bookkeeping: choosing and accepting tokens, tidying the "
        "cache; its share of the time stands on the right. After the first token.",
        "Dashed: the baseline." if show == "time" else "",
    )
    chart = alt.layer(*layers).properties(width=WIDTH, height=alt.Step(24))
    return chart.properties(
        title=heading("Time of each run: draft, verify, bookkeeping", " ".join(filter(None, notes)))
    )
