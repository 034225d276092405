"""Where the cost of each run lies: counted operations and bytes and measured time, beside the baseline."""

from __future__ import annotations

import altair as alt
import numpy as np
import pandas as pd
import xarray as xr

from workbench.figures._figure import figure
from workbench.figures._runs import INTERVALS, baseline, counted, decoded, hardware, labels, ratio
from workbench.figures._text import heading
from workbench.figures._theme import CATEGORIES
from workbench.metrics import measured, median_interval

Bounds = tuple[float, float, float]


@figure("steps/flops", "steps/bytes", "steps/tokens", "scores/cache_bytes_peak", "timing/tokens_per_second")
def cost_breakdown(tree: xr.DataTree) -> alt.TopLevelMixin:
    """Four panels of bars, one bar per run: time, operations and bytes per decoded token, and the largest cache.

    Time is measured: the median over prompts with its exact interval, from five prompts on. Operations and bytes are
    counted: sums over prompts for each decoded token. The prefill and its token are left out, so that a run that ends
    early is not judged by its prompt. The dashed line is the baseline.

    Parameters
    ----------
    tree : DataTree or Study
        Of a study.
    """
    rates = tree["timing/tokens_per_second"].transpose("run", "prompt", "repeat").values
    intervals = [median_interval(1e3 / measured(each)) for each in rates]
    times = [(each.median, each.low, each.high) for each in intervals]
    steps, made = tree["steps"].to_dataset().isel(step=slice(1, None)), decoded(tree)[0]
    flops, moved = (list(map(ratio, steps[name].sum("step").values, made)) for name in ("flops", "bytes"))
    cache = [(float(peak), np.nan, np.nan) for peak in tree["scores/cache_bytes_peak"].max("prompt").values]
    panels = [
        (times, 1, "measured time per decoded token [ms]", CATEGORIES[1]),
        (flops, 1e-9, "counted operations per decoded token [GFLOP]", CATEGORIES[0]),
        (moved, 1e-6, "counted bytes moved per decoded token [MB]", CATEGORIES[0]),
        (cache, 1e-6, "largest cache [MB]", CATEGORIES[2]),
    ]
    title = heading(
        "Cost of each run",
        f"After the first token. Time: median over prompts, with {INTERVALS}. Counts: sum over all prompts for each "
        "decoded token; cache: the largest. Dashed: baseline.",
    )
    return _grid(tree, panels, [counted(each) for each in intervals]).properties(title=title)


@figure("modelled/seconds", "steps/tokens")
def modelled_time(tree: xr.DataTree) -> alt.TopLevelMixin:
    """Seconds per decoded token that a roofline of named hardware gives for what each run counted; nothing was timed.

    Parameters
    ----------
    tree : DataTree or Study
        Of a study with ``modelled``.
    """
    seconds = tree["modelled/seconds"].transpose("run", "prompt", "hardware").values
    made = decoded(tree)[0]
    pairs = [f"{(each > 0).sum()} of {each.size}" for each in made]
    panels = [
        (list(map(ratio, seconds[..., i], made)), 1e3, f"{hardware(tree, i)[1]}: modelled [ms]", CATEGORIES[5])
        for i in range(seconds.shape[2])
    ]
    title = heading(
        "Modelled time per decoded token of each run",
        "Roofline of counted FLOPs and bytes on data-sheet or measured peaks; not a measurement. Dashed: baseline.",
    )
    return _grid(tree, panels, pairs).properties(title=title)


def _grid(tree: xr.DataTree, panels: list[tuple[list[Bounds], float, str, str]], pairs: list[str]) -> alt.VConcatChart:
    """Panels in rows of two; the names of the runs stand once in each row, how many prompts decoded in each tooltip."""
    drawn = [_panel(tree, *panel, pairs, named=number % 2 == 0) for number, panel in enumerate(panels)]
    return alt.vconcat(*(alt.hconcat(*drawn[i : i + 2], spacing=24) for i in range(0, len(drawn), 2)), spacing=18)


def _panel(
    tree: xr.DataTree, values: list[Bounds], scale: float, title: str, color: str, pairs: list[str], *, named: bool
) -> alt.LayerChart:
    names, base = labels(tree, 24), baseline(tree)
    table = pd.DataFrame(scale * np.array(values), columns=["value", "low", "high"]).assign(run=names, pairs=pairs)
    table["ratio"] = table["value"] / table["value"][base]
    intervals = table["low"].notna().any()
    axis = alt.Axis(labelLimit=170, minExtent=150, maxExtent=175, ticks=False, domain=False)
    y = alt.Y("run:N", sort=names, title=None, axis=axis if named else None)
    hover = [alt.Tooltip("run:N"), alt.Tooltip("value:Q", title=title, format=".4~g"),
             alt.Tooltip("ratio:Q", title="times the baseline", format=".3~f"),
             alt.Tooltip("pairs:N", title="prompts that decoded")]  # fmt: skip
    if intervals:
        hover += [alt.Tooltip(f"{end}:Q", title=end, format=".4~g") for end in ("low", "high")]
    x = alt.X("value:Q", title=title).axis(tickCount=5)
    layers = [alt.Chart(table).mark_bar(color=color, height={"band": 0.72}).encode(x=x, y=y, tooltip=hover)]
    layers.append(alt.Chart(table.iloc[[base]]).mark_rule(strokeDash=[4, 3]).encode(x="value:Q"))
    if intervals:
        known = alt.Chart(table).transform_filter("isValid(datum.low)")
        layers.append(known.mark_rule(strokeWidth=2).encode(x="low:Q", x2="high:Q", y=y))
    return alt.layer(*layers).properties(width=290, height=alt.Step(22))
