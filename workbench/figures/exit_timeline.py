"""Where each step left the model, what was accepted, and how long it took: one selection over all of them."""

from __future__ import annotations

import altair as alt
import numpy as np
import pandas as pd
import xarray as xr

from workbench.figures._exits import exit_layers, exit_steps
from workbench.figures._figure import figure
from workbench.figures._runs import index_of, labels
from workbench.figures._text import heading
from workbench.figures._theme import CATEGORIES, SEQUENTIAL

WIDTH = 640
MOST = 1500  # steps
FAINT = 0.15
HOVER = [
    alt.Tooltip("step:Q"), alt.Tooltip("said:N", title="wrote"), alt.Tooltip("exit:Q", title="left after block"),
    alt.Tooltip("drafted:Q"), alt.Tooltip("accepted:Q"), alt.Tooltip("tokens:Q", title="tokens of the step"),
    alt.Tooltip("ms:Q", title="time of a token [ms]", format=".3~g"),
    alt.Tooltip("step_ms:Q", title="step took [ms]", format=".3~g"),
]  # fmt: skip


def _left(tree: xr.DataTree, run: int | slice = slice(None)) -> bool:
    """Whether a decode step of a run, or of any, left before the last layer."""
    decoded = exit_layers(tree)[run][..., 1:]
    return bool(((decoded >= 0) & (decoded < tree["layers"].sizes["layer"] - 1)).any())


@figure(
    "layers/passes", "steps/tokens", "steps/seconds", "steps/drafted", "steps/accepted", "text/id", "text/step",
    each_run=True, shows=_left, when=_left,
)  # fmt: skip
def exit_timeline(
    tree: xr.DataTree, *, run: int | str | None = None, prompt: int = 0, first: int = 400
) -> alt.TopLevelMixin:
    """Exit layer, drafted and accepted tokens and wall clock of the decode steps of one answer, one above the other.

    Dragging over the first selects steps in all, and the panels below are of these: by the layer at which steps left,
    how many, what a token of them took, and, where tokens were drafted, the share accepted. Pointing at a step marks it
    in every panel.

    Parameters
    ----------
    tree : DataTree or Study
    run : int or str, optional
        Number or name; the last run if left out.
    prompt : int
    first : int
        How many steps are shown, from the first on.

    Raises
    ------
    TraceError
        If there is no such run or prompt, or no token of it was decoded.
    """
    run = index_of(tree, run)
    table = exit_steps(tree, run, prompt)
    total, last = len(table), tree["layers"].sizes["layer"] - 1
    table = table[: max(1, min(first, MOST))]
    drafts = bool((table["drafted"] > 0).any())
    brush = alt.selection_interval(name="steps", encodings=["x"])
    here = alt.selection_point(name="here", fields=["step"], on="pointerover", clear="pointerout", empty=False)
    ends = [float(table["step"].min()) - 0.5, float(table["step"].max()) + 0.5]
    wide = max(1.0, 0.9 * WIDTH / (ends[1] - ends[0]))
    x = alt.X("step:Q", title=None).scale(domain=ends, nice=False).axis(format="d", tickMinStep=1)
    base = alt.Chart(table).encode(x=x, tooltip=HOVER)
    colour = alt.Color("exit:Q").scale(scheme=SEQUENTIAL, domain=[0, last])
    colour = colour.legend(title="left after block", gradientLength=120, format="d")
    chosen = alt.condition(brush, alt.value(1.0), alt.value(FAINT))
    up = _up("exit", "left after block", last, -1)
    rows = [[base.mark_bar(width=wide).encode(y=up, y2=alt.datum(-1), color=colour, opacity=chosen)]]
    if drafts:
        most = int(table["drafted"].max())
        for field, shade in (("drafted", CATEGORIES[6]), ("accepted", CATEGORIES[1])):
            up = _up(field, "drafted, accepted [tokens]", most)
            rows.append(base.mark_bar(width=wide, color=shade).encode(y2=alt.datum(0), y=up, opacity=chosen))
        rows[1:] = [rows[1:]]
    time = _up("ms", "time of a token, measured [ms]", float(table["ms"].quantile(0.99)))
    rows.append([base.mark_bar(width=wide, clip=True).encode(y2=alt.datum(0), y=time, color=colour, opacity=chosen)])
    line = base.mark_rule(strokeWidth=1.5, color=CATEGORIES[3]).encode(
        opacity=alt.condition(here, alt.value(0.9), alt.value(0.0))
    )
    for place, (first_mark, *_) in enumerate(rows):
        first_mark.name = f"panel_{place}"
    panels = [alt.layer(*marks, line).properties(width=WIDTH, height=90) for marks in rows]
    panels[-1].layer[0].encoding.x.title = "decode step"
    title = heading(
        f"Exit layer, {'acceptance, ' if drafts else ''}and time of every step: {labels(tree)[run]}, prompt {prompt}",
        "Drag over the upper panel to choose steps: the lowest panels are means of those, by the layer they left at. "
        "Bars of time are cut at the 99th of 100.",
        f"The first {len(table)} of {total} decode steps are shown." if len(table) < total else "",
    )
    chart = alt.vconcat(*panels, _by_layer(table, brush, drafts), spacing=12).properties(title=title)
    # One selection over panels of several layers: told where it lives, or it would be made once for each.
    views = [f"panel_{place}" for place in range(len(rows))]
    chart.params = [_shared(brush, views[:1]), _shared(here, views)]
    return chart


def _folded(title: str) -> str | list[str]:
    return title.split(", ") if len(title) > 20 else title


def _shared(parameter: alt.Parameter, views: list[str]) -> alt.TopLevelSelectionParameter:
    return alt.TopLevelSelectionParameter(name=parameter.name, select=parameter.param.select, views=views)


def _up(field: str, title: str, most: float, least: float = 0) -> alt.Y:
    return alt.Y(f"{field}:Q", title=_folded(title)).scale(domain=[least, most or 1], nice=False)


def _by_layer(table: pd.DataFrame, brush: alt.Parameter, drafts: bool) -> alt.HConcatChart:
    """How many of the selected steps left at each layer, what a token of them took, and what was accepted."""
    exits = [int(each) for each in np.unique(table["exit"])]
    chosen = (
        alt.Chart(table)
        .transform_filter(brush)
        .transform_aggregate(
            steps="count()", took="sum(step_ms)", tokens="sum(tokens)", drafted="sum(drafted)", kept="sum(accepted)",
            groupby=["exit"],
        )
        .transform_calculate(each="datum.took / datum.tokens", rate="datum.drafted ? datum.kept / datum.drafted : 0")
        .encode(
            x=alt.X("exit:O", title="left after block").scale(domain=exits).axis(labelAngle=0),
            tooltip=[alt.Tooltip("exit:O", title="left after block"), alt.Tooltip("steps:Q"),
                     alt.Tooltip("tokens:Q"), alt.Tooltip("each:Q", title="time of a token [ms]", format=".3~g"),
                     alt.Tooltip("drafted:Q"), alt.Tooltip("kept:Q", title="accepted")],
        )
    )  # fmt: skip
    shown = [("steps", "decode steps", ",.3~f"), ("each", "time of a token, measured [ms]", ",.3~f")]
    shown += [("rate", "accepted, of drafted tokens", "%")] if drafts else []
    width = (WIDTH - 60 * (len(shown) - 1)) / len(shown)
    return alt.hconcat(
        *(
            chosen.mark_bar(color=CATEGORIES[place])
            .encode(
                y=alt.Y(f"{field}:Q", title=_folded(title)).axis(
                    format=form, tickCount=4, tickMinStep=1 if field == "steps" else alt.Undefined
                )
            )
            .properties(width=width, height=110)
            for place, (field, title, form) in enumerate(shown)
        ),
        spacing=30,
    )
