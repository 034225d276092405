"""Where the cost of each run lies: counted operations and bytes and measured time, beside the baseline."""

from __future__ import annotations

import altair as alt
import numpy as np
import pandas as pd
import xarray as xr

from workbench.figures._figure import figure
from workbench.figures._runs import baseline, hardware, labels, mean_interval, median_interval
from workbench.figures._text import heading
from workbench.figures._theme import CATEGORIES


@figure("scores/flops", "scores/bytes", "scores/new_tokens", "timing/seconds")
def cost_breakdown(tree: xr.DataTree) -> alt.TopLevelMixin:
    """Four panels of bars, one bar per run: time, operations and bytes per new token, and the largest cache.

    Time is measured: the median over prompts and repeats with its 95 % bootstrap interval. Operations, bytes and cache
    are counted: means over prompts. All include the prefill. The dashed line is the baseline.

    Parameters
    ----------
    tree : DataTree or Study
        Of a study.
    """
    scores = tree["scores"].to_dataset().transpose("run", "prompt")
    made = np.maximum(scores["new_tokens"].values, 1)
    seconds = tree["timing/seconds"].transpose("run", "prompt", "repeat").values / made[:, :, None]
    panels = [
        (seconds * 1e3, "measured time per new token [ms]", CATEGORIES[1], True),
        (scores["flops"].values / made * 1e-9, "counted operations per new token [GFLOP]", CATEGORIES[0], False),
        (scores["bytes"].values / made * 1e-6, "counted bytes moved per new token [MB]", CATEGORIES[0], False),
    ]
    if "cache_bytes_peak" in scores:
        panels.append((scores["cache_bytes_peak"].values * 1e-6, "largest cache [MB]", CATEGORIES[2], False))
    title = heading(
        "Cost of each run",
        "Prefill included. Time: median over prompts and repeats, with its 95 % bootstrap interval; counts: means over "
        "prompts. Dashed: baseline.",
    )
    return _grid(tree, panels).properties(title=title)


@figure("modelled/seconds", "scores/new_tokens")
def modelled_time(tree: xr.DataTree) -> alt.TopLevelMixin:
    """Seconds per new token that a roofline of named hardware gives for what each run counted; nothing was timed.

    Parameters
    ----------
    tree : DataTree or Study
        Of a study with ``modelled``.
    """
    seconds = tree["modelled/seconds"].transpose("run", "prompt", "hardware").values
    made = np.maximum(tree["scores/new_tokens"].transpose("run", "prompt").values, 1)
    panels = [
        (seconds[:, :, index] / made * 1e3, f"{hardware(tree, index)[1]}: modelled time [ms]", CATEGORIES[5], False)
        for index in range(seconds.shape[2])
    ]
    title = heading(
        "Modelled time per new token of each run",
        "Roofline of counted FLOPs and bytes on data-sheet or measured peaks; not a measurement. Dashed: baseline.",
    )
    return _grid(tree, panels).properties(title=title)


def _grid(tree: xr.DataTree, panels: list[tuple[np.ndarray, str, str, bool]]) -> alt.VConcatChart:
    """Panels in rows of two; the names of the runs stand once in each row."""
    drawn = [_panel(tree, *panel, named=number % 2 == 0) for number, panel in enumerate(panels)]
    return alt.vconcat(*(alt.hconcat(*drawn[i : i + 2], spacing=24) for i in range(0, len(drawn), 2)), spacing=18)


def _panel(
    tree: xr.DataTree, values: np.ndarray, title: str, color: str, intervals: bool, *, named: bool
) -> alt.LayerChart:
    names, base = labels(tree, 24), baseline(tree)
    rows = []
    for name, row in zip(names, values, strict=True):
        value, low, high = median_interval(row) if intervals else mean_interval(row)
        rows.append({"run": name, "value": value, "low": low, "high": high})
    table = pd.DataFrame(rows)
    table["ratio"] = table["value"] / table["value"][base]
    axis = alt.Axis(labelLimit=170, minExtent=150, maxExtent=175, ticks=False, domain=False)
    y = alt.Y("run:N", sort=names, title=None, axis=axis if named else None)
    hover = [alt.Tooltip("run:N"), alt.Tooltip("value:Q", title=title, format=".4~g"),
             alt.Tooltip("ratio:Q", title="times the baseline", format=".3~f")]  # fmt: skip
    if intervals:
        hover += [alt.Tooltip(f"{end}:Q", title=end, format=".4~g") for end in ("low", "high")]
    x = alt.X("value:Q", title=title).axis(tickCount=5)
    layers = [alt.Chart(table).mark_bar(color=color, height={"band": 0.72}).encode(x=x, y=y, tooltip=hover)]
    layers.append(alt.Chart(table.iloc[[base]]).mark_rule(strokeDash=[4, 3]).encode(x="value:Q"))
    if intervals:
        layers.append(alt.Chart(table).mark_rule(strokeWidth=2).encode(x="low:Q", x2="high:Q", y=y))
    return alt.layer(*layers).properties(width=290, height=alt.Step(22))
