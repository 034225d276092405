"""Quality against speed, one point per run, with the runs that no other beats."""

from __future__ import annotations

from typing import Any, Literal

import altair as alt
import numpy as np
import pandas as pd
import xarray as xr

from workbench.errors import TraceError
from workbench.figures._figure import figure
from workbench.figures._labels import LETTER, place_labels
from workbench.figures._runs import hardware as find_hardware
from workbench.figures._runs import labels, mean_interval, median_interval, runs
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
    speed, axis, said, middle = _speeds(tree, hardware)
    rows = []
    for index, (run, name) in enumerate(zip(runs(tree), labels(tree, 26), strict=True)):
        row: dict[str, Any] = {"run": name, "technique": str(run.get("technique") or "none")[:120]}
        row["speed"], row["speed_low"], row["speed_high"] = middle(speed[index])
        row["quality"], row["quality_low"], row["quality_high"] = mean_interval(good[index])
        row["declared"] = "exact" if run.get("exact_declared") else "may differ"
        rows.append(row)
    table = pd.DataFrame(rows).dropna(subset=["speed", "quality"]).reset_index(drop=True)
    if table.empty:
        raise TraceError("no run has both a speed-up and a quality")
    table["front"] = _front(table["speed"].to_numpy(), sign * table["quality"].to_numpy())
    across, up = _domain(table, "speed", 0.06), _domain(table, "quality", 0.02)
    _add_labels(table, across, up, sign)
    x = alt.X("speed:Q", title=axis, scale=alt.Scale(domain=across, nice=False, zero=False))
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
    notes = (
        f"Points: {said}. Bars: 95 % bootstrap intervals. Long dashes: Pareto front; better is up and right."
    )
    heads = heading(f"Quality against {'modelled' if hardware is not None else 'measured'} speed", notes)
    return alt.layer(*layers).properties(width=SIZE[0], height=SIZE[1], title=heads)


def _speeds(tree: xr.DataTree, hardware: str | int | None) -> tuple[np.ndarray, str, str, Any]:
    if hardware is None:
        speed = tree["timing/speedup"].transpose("run", "prompt", "repeat").values
        axis = "measured speed-up over the baseline (times)"
        return speed, axis, "median speed-up over prompts and repeats, mean quality over prompts", median_interval
    index, name = find_hardware(tree, hardware)
    speed = tree["modelled/speedup"].transpose("run", "prompt", "hardware").values[:, :, index]
    axis = f"modelled speed-up over the baseline on {name} (times; roofline of counted FLOPs and bytes)"
    return speed, axis, "means over prompts", mean_interval


def _front(speed: np.ndarray, good: np.ndarray) -> list[bool]:
    """Which points no other point beats in one and equals in the other."""
    return [
        not any((s >= x and g >= y) and (s > x or g > y) for s, g in zip(speed, good, strict=True))
        for x, y in zip(speed, good, strict=True)
    ]


def _add_labels(table: pd.DataFrame, across: list[float], up: list[float], sign: int) -> None:
    """Add the places of labels, in the units of the axes: ``label_x``, ``label_y`` and, for one that had to go far,
    ``far`` and the end of a line to it."""
    spans = across[1] - across[0], up[1] - up[0]

    def pixel(x: Any, y: Any) -> Any:
        return SIZE[0] * (x - across[0]) / spans[0], SIZE[1] * ((y - up[0]) if sign < 0 else (up[1] - y)) / spans[1]

    points = [pixel(x, y) for x, y in zip(table["speed"], table["quality"], strict=True)]
    bars = []
    for row in table.itertuples():
        (left, level), (right, _) = pixel(row.speed_low, row.quality), pixel(row.speed_high, row.quality)
        (middle, one), (_, other) = pixel(row.speed, row.quality_low), pixel(row.speed, row.quality_high)
        bars += [(left, level - 1, right, level + 1), (middle - 1, min(one, other), middle + 1, max(one, other))]
    spots = np.array(place_labels(points, list(table["run"]), SIZE, bars))
    ends = spots + [[LETTER / 2 * len(name) if x > spot else 0, 0] for name, spot, (x, _) in
                    zip(table["run"], spots[:, 0], points, strict=True)]  # fmt: skip
    table["far"] = np.abs(spots[:, 1] - np.array(points)[:, 1]) > 24
    for name, places in (("label", spots), ("end", ends)):
        share = places / SIZE
        table[f"{name}_x"] = across[0] + share[:, 0] * spans[0]
        table[f"{name}_y"] = up[0] + share[:, 1] * spans[1] if sign < 0 else up[1] - share[:, 1] * spans[1]


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
