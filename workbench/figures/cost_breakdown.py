"""Where the cost of each run lies: counted operations and bytes and measured time, beside the baseline."""

from __future__ import annotations

import altair as alt
import numpy as np
import pandas as pd
import xarray as xr

from workbench.figures._figure import figure
from workbench.figures._runs import baseline, hardware, labels, median_interval, ratio
from workbench.figures._text import heading
from workbench.figures._theme import CATEGORIES

Bounds = tuple[float, float, float]


@figure("scores/flops", "scores/bytes", "scores/cache_bytes_peak", "scores/new_tokens", "timing/seconds")
def cost_breakdown(tree: xr.DataTree) -> alt.TopLevelMixin:
    """Four panels of bars, one bar per run: time, operations and bytes per new token, and the largest cache.

    Time is measured: the median over prompts and repeats with its 95 % bootstrap interval. Operations and bytes are
    counted: sums over prompts for each new token. All include the prefill. The dashed line is the baseline.

    Parameters
    ----------
    tree : DataTree or Study
        Of a study.
    """
    scores = tree["scores"].to_dataset().transpose("run", "prompt")
    made = scores["new_tokens"].values
    seconds = tree["timing/seconds"].transpose("run", "prompt", "repeat").values / np.maximum(made, 1)[:, :, None]
    times = [median_interval(1e3 * each) for each in seconds]
    flops, moved = (list(map(ratio, scores[name].values, made)) for name in ("flops", "bytes"))
    cache = [(float(peak), np.nan, np.nan) for peak in scores["cache_bytes_peak"].max("prompt").values]
    panels = [
        (times, 1, "measured time per new token [ms]", CATEGORIES[1]),
        (flops, 1e-9, "counted operations per new token [GFLOP]", CATEGORIES[0]),
        (moved, 1e-6, "counted bytes moved per new token [MB]", CATEGORIES[0]),
        (cache, 1e-6, "largest cache [MB]", CATEGORIES[2]),
    ]
    title = heading(
        "Cost of each run",
        "Prefill included. Time: median over prompts and repeats with its 95 % bootstrap interval. Counts: sum over all "
        "prompts for each new token; cache: the largest. Dashed: baseline.",
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
    made = tree["scores/new_tokens"].transpose("run", "prompt").values
    panels = [
        (list(map(ratio, seconds[..., i], made)), 1e3, f"{hardware(tree, i)[1]}: modelled [ms]", CATEGORIES[5])
        for i in range(seconds.shape[2])
    ]
    title = heading(
        "Modelled time per new token of each run",
        "Roofline of counted FLOPs and bytes on data-sheet or measured peaks; not a measurement. Dashed: baseline.",
    )
    return _grid(tree, panels).properties(title=title)


def _grid(tree: xr.DataTree, panels: list[tuple[list[Bounds], float, str, str]]) -> alt.VConcatChart:
    """Panels in rows of two; the names of the runs stand once in each row."""
    drawn = [_panel(tree, *panel, named=number % 2 == 0) for number, panel in enumerate(panels)]
    return alt.vconcat(*(alt.hconcat(*drawn[i : i + 2], spacing=24) for i in range(0, len(drawn), 2)), spacing=18)


def _panel(
    tree: xr.DataTree, values: list[Bounds], scale: float, title: str, color: str, *, named: bool
) -> alt.LayerChart:
    names, base = labels(tree, 24), baseline(tree)
    table = pd.DataFrame(scale * np.array(values), columns=["value", "low", "high"]).assign(run=names)
    table["ratio"] = table["value"] / table["value"][base]
    intervals = table["low"].notna().any()
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
