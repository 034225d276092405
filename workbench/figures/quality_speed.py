"""Quality against speed, one point per run, with the runs that no other beats."""

from __future__ import annotations

from typing import Any, Literal

import altair as alt
import numpy as np
import pandas as pd
import xarray as xr

from workbench.errors import TraceError
from workbench.figures._figure import figure
from workbench.figures._labels import add_labels
from workbench.figures._runs import front, labels, mean_interval, median_interval, runs
from workbench.figures._runs import hardware as find_hardware
from workbench.figures._text import heading
from workbench.figures._theme import CATEGORIES

QUALITIES = {
    "top1_agreement": ("top-1 agreement with the baseline (share)", 1),
    "kl": ("KL divergence from the baseline [nats]", -1),
    "perplexity": ("perplexity of the baseline's text", -1),
    "rouge_l": ("ROUGE-L with the baseline's text", 1),
    "score": ("task score", 1),
    "equal_to_baseline": ("answers equal to the baseline's (share)", 1),
}
SIZE = (620, 360)


@figure("scores/top1_agreement", "timing/speedup")
def quality_speed(
    tree: xr.DataTree,
    *,
    quality: Literal["top1_agreement", "kl", "perplexity", "rouge_l", "score", "equal_to_baseline"] = "top1_agreement",
    hardware: str | int | None = None,
) -> alt.TopLevelMixin:
    """Runs by speed-up and quality; bars are 95 % bootstrap intervals over prompts, the line is the Pareto front.

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
    title, sign = QUALITIES[quality]
    good = tree["scores"][quality].transpose("run", "prompt").values
    speed, axis, said = _speeds(tree, hardware)
    rows = []
    for index, (run, name) in enumerate(zip(runs(tree), labels(tree, 26), strict=True)):
        row: dict[str, Any] = {"run": name, "technique": str(run.get("technique") or "none")[:120]}
        row["speed"], row["speed_low"], row["speed_high"] = median_interval(speed[index])
        row["quality"], row["quality_low"], row["quality_high"] = mean_interval(good[index])
        row["declared"] = "exact" if run.get("exact_declared") else "may differ"
        rows.append(row)
    table = pd.DataFrame(rows).dropna(subset=["speed", "quality"]).reset_index(drop=True)
    if table.empty:
        raise TraceError("no run has both a speed-up and a quality")
    table["front"] = front(table["speed"], sign * table["quality"])
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
        base.mark_rule(strokeWidth=1.3).encode(x="speed_low:Q", x2="speed_high:Q", color=kinds),
        base.mark_rule(strokeWidth=1.3).encode(y="quality_low:Q", y2="quality_high:Q", color=kinds),
        base.mark_point(filled=True, size=90, opacity=1).encode(color=kinds, shape=shapes, tooltip=_tooltip(title)),
        base.mark_text(align="left", fontSize=11.5).encode(x="label_x:Q", y="label_y:Q", text="run:N"),
    ]  # fmt: skip
    notes = f"Points: {said}. Bars: 95 % bootstrap intervals. Long dashes: Pareto front; better is up and right."
    heads = heading(f"Quality against {'modelled' if hardware is not None else 'measured'} speed", notes)
    return alt.layer(*layers).properties(width=SIZE[0], height=SIZE[1], title=heads)


def _speeds(tree: xr.DataTree, hardware: str | int | None) -> tuple[np.ndarray, str, str]:
    if hardware is None:
        speed = tree["timing/speedup"].transpose("run", "prompt", "repeat").values
        axis = "measured speed-up over the baseline (times)"
        return speed, axis, "median speed-up over prompts and repeats, mean quality over prompts"
    index, name = find_hardware(tree, hardware)
    speed = tree["modelled/speedup"].transpose("run", "prompt", "hardware").values[:, :, index]
    axis = f"modelled speed-up over the baseline on {name} (times; roofline of counted FLOPs and bytes)"
    return speed[..., None], axis, "median speed-up and mean quality over prompts"


def _domain(table: pd.DataFrame, name: str, least: float) -> list[float]:
    low, high = float(table[f"{name}_low"].min()), float(table[f"{name}_high"].max())
    if name == "speed":
        low, high = min(low, 1.0), max(high, 1.0)
    room = max(0.12 * (high - low), least)
    return [low - room, high + room]


def _tooltip(title: str) -> list[alt.Tooltip]:
    found = [alt.Tooltip("run:N"), alt.Tooltip("technique:N")]
    for name, said in (("speed", "speed-up (times)"), ("quality", title)):
        found.append(alt.Tooltip(f"{name}:Q", title=said, format=".3~f"))
        found += [alt.Tooltip(f"{name}_{end}:Q", title=f"  {end}", format=".3~f") for end in ("low", "high")]
    return found
