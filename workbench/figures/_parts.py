"""Pieces that several figures are made of."""

from __future__ import annotations

from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from workbench.figures._theme import SEQUENTIAL

LAYER_LABEL = "datum.value < 0 ? 'embedding' : datum.value"


def cell(count: int, room: float, least: float = 3, most: float = 26) -> float:
    """Side of the cells of a heat map [whole pixels], so that ``count`` of them take at most about ``room``."""
    return float(np.clip(room // max(count, 1), least, most))


def sparse_axis(values: Any, most: int = 22) -> alt.Axis:
    """An axis of a heat map that labels at most ``most`` of its values, evenly, and layer -1 as the embedding."""
    kept = sorted({int(value) for value in values})
    step = -(-len(kept) // most)
    shown = kept[::step]
    if len(shown) > 16 and shown[:2] == [-1, 0]:
        shown.remove(0)  # the long label in front would cover it
    return alt.Axis(values=shown, labelExpr=LAYER_LABEL, labelAngle=0, labelOverlap=False, ticks=False, domain=False)


def point_tooltip(**axes: str) -> list[alt.Tooltip]:
    """The tooltip of a run that is a point with bounds: column -> what it is called."""
    tooltips = [alt.Tooltip("run:N"), alt.Tooltip("technique:N"), alt.Tooltip("pairs:N", title="speed-up from prompts")]
    for name, title in axes.items():
        tooltips.append(alt.Tooltip(f"{name}:Q", title=title, format=".3~f"))
        tooltips += [alt.Tooltip(f"{name}_{end}:Q", title=f"  {end}", format=".3~f") for end in ("low", "high")]
    return tooltips


def bars(base: alt.Chart, axes: tuple[str, str], **encoding: Any) -> list[alt.Chart]:
    """The bounds of points, across and up, where there are any."""
    across, up = axes
    known = [base.transform_filter(f"isValid(datum.{name}_low)").mark_rule(strokeWidth=1.3) for name in axes]
    return [
        known[0].encode(x=f"{across}_low:Q", x2=f"{across}_high:Q", **encoding),
        known[1].encode(y=f"{up}_low:Q", y2=f"{up}_high:Q", **encoding),
    ]


def heat_map(
    table: pd.DataFrame,
    x: tuple[str, str],
    y: tuple[str, str],
    value: tuple[str, str],
    tooltip: list[alt.Tooltip],
    *,
    side: tuple[float, float],
    domain: tuple[float, float] | None = None,
    percent: bool = False,
    layers_up: bool = True,
) -> alt.Chart:
    """Cells of a table of whole-numbered rows and columns; x, y, value: a field and its title with unit."""
    scale = alt.Scale(scheme=SEQUENTIAL, domain=list(domain)) if domain else alt.Scale(scheme=SEQUENTIAL)
    legend = alt.Legend(title=value[1], gradientLength=160, tickCount=5, format="%" if percent else "~g")
    order = "descending" if layers_up else "ascending"
    return (
        alt.Chart(table)
        .mark_rect()
        .encode(
            x=alt.X(f"{x[0]}:O", title=x[1], axis=sparse_axis(table[x[0]], 30)),
            y=alt.Y(f"{y[0]}:O", title=y[1], sort=order, axis=sparse_axis(table[y[0]])),
            color=alt.Color(f"{value[0]}:Q", scale=scale, legend=legend),
            tooltip=tooltip,
        )
        .properties(width=alt.Step(side[0]), height=alt.Step(side[1]))
    )
