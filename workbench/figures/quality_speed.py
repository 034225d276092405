"""Quality against speed, one point per run, with the runs that no other beats."""

from __future__ import annotations

from typing import Literal

import altair as alt
import numpy as np
import pandas as pd
import xarray as xr

from workbench.errors import TraceError
from workbench.figures._figure import figure
from workbench.figures._labels import add_labels
from workbench.figures._parts import bars, point_tooltip
from workbench.figures._runs import INTERVALS, comparable, labels, runs, speed_point
from workbench.figures._runs import hardware as find_hardware
from workbench.figures._text import heading
from workbench.figures._theme import CATEGORIES
from workbench.metrics import mean_interval, pareto_front

# variable -> (title, whether more is better (1) or less (-1), what it can be)
QUALITIES = {
    "top1_agreement": ("top-1 agreement with the baseline (share)", 1, (0, 1)),
    "kl": ("KL divergence from the baseline [nats]", -1, (0, np.inf)),
    "perplexity": ("perplexity of the baseline's text", -1, (1, np.inf)),
    "rouge_l": ("ROUGE-L with the baseline's text", 1, (0, 1)),
    "score": ("task score", 1, (0, 1)),
    "equal_to_baseline": ("answers equal to the baseline's (share)", 1, (0, 1)),
}
SIZE = (620, 360)


@figure("scores/top1_agreement", "scores/new_tokens", "timing/speedup")
def quality_speed(
    tree: xr.DataTree,
    *,
    quality: Literal["top1_agreement", "kl", "perplexity", "rouge_l", "score", "equal_to_baseline"] = "top1_agreement",
    hardware: str | int | None = None,
) -> alt.TopLevelMixin:
    """Runs by speed-up and quality, with 95 % intervals from five prompts on; the line is the Pareto front.

    A speed-up is a median over prompts with its exact interval, a quality a mean with Student's. Runs whose speed does
    not rest on the baseline's prompts (:func:`workbench.metrics.covers`) are hollow and not considered for the front.

    Parameters
    ----------
    tree : DataTree or Study
        Of a study.
    quality : str
        A variable of ``scores``. For ``kl`` and ``perplexity`` the axis is turned, so that better is up.
    hardware : str or int, optional
        Take the speed-up modelled for this hardware instead of the measured one.

    Raises
    ------
    TraceError
        If no run has that quality, or nothing was modelled for that hardware.
    """
    if quality not in QUALITIES or quality not in tree["scores"] or not np.isfinite(tree["scores"][quality]).any():
        raise TraceError(f"quality={quality!r} is not in this study")
    title, sign, bounds = QUALITIES[quality]
    good = tree["scores"][quality].transpose("run", "prompt").values
    speed, axis = _speeds(tree, hardware)
    rows, may = [], comparable(tree)
    for index, (run, name) in enumerate(zip(runs(tree), labels(tree, 26), strict=True)):
        row = {**speed_point(name, speed[index]), "technique": str(run.get("technique") or "none")[:120]}
        row["quality"], row["quality_low"], row["quality_high"] = mean_interval(good[index], None, *bounds)
        row["comparable"] = bool(may[index])
        row["declared"] = "exact" if run.get("exact_declared") else "may differ"
        rows.append(row)
    table = pd.DataFrame(rows).dropna(subset=["speed", "quality"]).reset_index(drop=True)
    if table.empty:
        raise TraceError("no run has both a speed-up and a quality")
    table["front"] = pareto_front(sign * table["quality"], table["speed"], table["comparable"])
    across, up = _domain(table, "speed", 0.06), _domain(table, "quality", 0.02)
    add_labels(table, across, up, SIZE, reverse=sign < 0)
    x = alt.X("speed:Q", title=axis, scale=alt.Scale(domain=across, nice=False, zero=False)).axis(tickCount=8)
    y = alt.Y("quality:Q", title=title, scale=alt.Scale(domain=up, nice=False, zero=False, reverse=sign < 0))
    base = alt.Chart(table).encode(x=x, y=y)
    kinds = alt.Color("declared:N", title="greedy output").scale(domain=["exact", "may differ"], range=CATEGORIES[:2])
    shapes = alt.Shape("declared:N", title="greedy output").scale(
        domain=["exact", "may differ"], range=["diamond", "circle"]
    )
    layers = [
        alt.Chart(pd.DataFrame({"speed": [1.0]})).mark_rule(strokeDash=[4, 3], opacity=0.6).encode(x=x),
        base.transform_filter("datum.far").mark_rule(opacity=0.5, strokeWidth=0.8).encode(x2="end_x:Q", y2="end_y:Q"),
        base.transform_filter("datum.front").mark_line(
            interpolate="step-before", strokeWidth=1.5, color=CATEGORIES[6], strokeDash=[6, 3]
        ).encode(order="speed:Q"),
        *bars(base, ("speed", "quality"), color=kinds),
        base.mark_point(size=90, opacity=1).encode(
            color=kinds, shape=shapes, tooltip=point_tooltip(speed="speed-up (times)", quality=title),
            fill=alt.condition("datum.comparable", kinds, alt.value("transparent")),
        ),
        base.mark_text(align="left", fontSize=11.5).encode(x="label_x:Q", y="label_y:Q", text="run:N"),
    ]  # fmt: skip
    notes = (
        f"Points: median speed-up and mean quality over {good.shape[1]} prompt{'s' * (good.shape[1] != 1)}.",
        f"Bars: {INTERVALS}." if table[["speed_low", "quality_low"]].notna().any(axis=None) else "",
        "Long dashes: Pareto front; better is up and right.",
        "" if table["comparable"].all() else "Hollow: decoded nothing on more than a tenth of the prompts or too "
        "little in all, and so not considered for the front.",
    )  # fmt: skip
    heads = heading(
        f"Quality against {'modelled' if hardware is not None else 'measured'} speed", " ".join(filter(None, notes))
    )
    return alt.layer(*layers).properties(width=SIZE[0], height=SIZE[1], title=heads)


def _speeds(tree: xr.DataTree, hardware: str | int | None) -> tuple[np.ndarray, str]:
    if hardware is None:
        speed = tree["timing/speedup"].transpose("run", "prompt", "repeat").values
        axis = "measured speed-up over the baseline (times)"
        return speed, axis
    index, name = find_hardware(tree, hardware)
    speed = tree["modelled/speedup"].transpose("run", "prompt", "hardware").values[:, :, index]
    axis = f"modelled speed-up over the baseline on {name} (times; roofline of counted FLOPs and bytes)"
    return speed[..., None], axis


def _domain(table: pd.DataFrame, name: str, least: float) -> list[float]:
    low, high = float(table[[name, f"{name}_low"]].min(axis=None)), float(table[[name, f"{name}_high"]].max(axis=None))
    if name == "speed":
        low, high = min(low, 1.0), max(high, 1.0)
    room = max(0.12 * (high - low), least)
    return [low - room, high + room]
