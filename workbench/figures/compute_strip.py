"""What each token of an answer cost, laid over the answer's own text."""

from __future__ import annotations

from typing import Any, Literal

import altair as alt
import numpy as np
import xarray as xr

from workbench.errors import TraceError
from workbench.figures._figure import ROWS, figure
from workbench.figures._reduce import frame
from workbench.figures._runs import group, index_of, labels
from workbench.figures._text import Texts, columns, heading
from workbench.figures._theme import BRIGHT, CATEGORIES, LETTERS, MONOSPACE, SEQUENTIAL

COSTS = {
    "seconds": ("ms", 1e3, "measured wall clock"),
    "layers": ("layers", 1, "sequential layers run"),
    "keys_read": ("keys", 1, "keys read by a query"),
    "flops": ("GFLOP", 1e-9, "counted operations"),
    "bytes": ("MB", 1e-6, "counted bytes moved"),
}
WIDTH = 92  # columns of text in a row
LETTER = 7.4  # pixels to a column


def _made(tree: xr.DataTree, run: int) -> bool:
    return bool((group(tree, "text")["id"].isel(run=run, prompt=0) >= 0).any())


@figure("text/id", "text/step", "steps/seconds", each_run=True, shows=_made)
def compute_strip(
    tree: xr.DataTree,
    *,
    run: int | str | None = None,
    prompt: int = 0,
    cost: Literal["seconds", "layers", "keys_read", "flops", "bytes"] = "seconds",
    first: int = 600,
) -> alt.TopLevelMixin:
    """Every token of one answer as a cell, in text order, coloured by its share of what its step cost.

    Tokens made by one step stand together without a gap and share the step's seconds, layers, operations and bytes
    evenly; the keys read are those of a query, so they are not divided. A triangle marks an accepted draft token.

    Parameters
    ----------
    tree : DataTree or Study
        Of a study.
    run : int or str, optional
        Number or name; the last run if left out.
    prompt : int
    cost : {"seconds", "layers", "keys_read", "flops", "bytes"}
    first : int
        How many tokens are shown, from the first on.

    Raises
    ------
    TraceError
        If there is no such run, prompt or cost.
    """
    run = index_of(tree, run)
    text, steps = group(tree, "text").isel(run=run), group(tree, "steps").isel(run=run)
    if cost not in COSTS or cost not in steps:
        raise TraceError(f"cost={cost!r} is none of {', '.join(name for name in COSTS if name in steps)}")
    if not 0 <= prompt < text.sizes["prompt"]:
        raise TraceError(f"there is no prompt {prompt}; the study has {text.sizes['prompt']}")
    text, steps = text.isel(prompt=prompt), steps.isel(prompt=prompt)
    ids = text["id"].values[text["id"].values >= 0].astype(int)
    shown = min(len(ids), first, ROWS)
    if not shown:
        raise TraceError(f"run {labels(tree)[run]!r} made no tokens for prompt {prompt}")
    made, drafts = (text[name].values[:shown].astype(int) for name in ("step", "accepted_draft"))
    table = _cells(Texts(tree), ids[:shown], made, drafts, steps, cost)
    decode = table.loc[(table["step"] > 0) & table["cost"].notna(), "cost"]
    top = float(np.quantile(decode if len(decode) else table["cost"].fillna(0), 0.98)) or 1.0
    table["bright"] = table["cost"].fillna(0) > BRIGHT * top
    unit, _, meaning = COSTS[cost]
    each = "a query of the token's step" if cost == "keys_read" else "a token"
    rows = int(table["row"].max()) + 1
    x = alt.X("start:Q", axis=None, scale=alt.Scale(domain=[0, WIDTH], nice=False))
    base = alt.Chart(table)
    row = alt.Y("row:O", axis=None)
    cells = base.mark_rect(height=19, yOffset=-4).encode(
        x=x, x2="end:Q", y=row, tooltip=_tooltip(table.columns, unit, meaning),
        color=alt.Color("cost:Q", scale=alt.Scale(scheme=SEQUENTIAL, domain=[0, top], clamp=True))
        .legend(title=f"{meaning}, for {each} [{unit}]", orient="bottom", gradientLength=260),
    )  # fmt: skip
    letters = base.mark_text(font=MONOSPACE, fontSize=11, align="center", yOffset=-4).encode(
        x="middle:Q", y=row, text="token:N", color=LETTERS
    )
    triangles = base.transform_filter("datum.draft == 1").mark_point(
        shape="triangle-up", size=26, filled=True, color=CATEGORIES[1], opacity=1, yOffset=11
    )
    notes = [
        "Triangle: a drafted token that was accepted." if (table["draft"] == 1).any() else "",
        f"The first {shown} of {len(ids)} tokens are shown." if shown < len(ids) else "",
        "The first token's step is the prefill; the colours are scaled by the steps after it.",
        f"Colour is full from {top:.3g} {unit} on." if (table["cost"] > top).any() else "",
    ]
    title = heading(f"What each token cost: {labels(tree)[run]}, prompt {prompt}", " ".join(filter(None, notes)))
    return alt.layer(cells, letters, triangles.encode(x="middle:Q", y=row)).properties(
        width=WIDTH * LETTER, height=30 * rows, title=title
    )


def _cells(texts: Texts, ids: Any, made: Any, drafts: Any, steps: xr.Dataset, cost: str) -> Any:
    start, row, place = [], [], (0.0, 0)
    words = [texts.short(number, 20) for number in ids]
    widths = [columns(word) + 0.6 for word in words]
    for index, wide in enumerate(widths):
        across, down = place
        across += 0.4 if across and made[index] != made[index - 1] else 0.0
        if across + wide > WIDTH or (index and texts[int(ids[index - 1])].endswith("⏎")):
            across, down = 0.0, down + 1
        start, row, place = [*start, across], [*row, down], (across + wide, down)
    counts = {name: steps[name].values[made] for name in steps.data_vars}
    share = 1 if cost == "keys_read" else np.maximum(np.bincount(made)[made], 1)
    found = {
        "token": np.array(words, dtype=object), "position": np.arange(len(ids)), "step": made, "row": row,
        "start": start, "end": np.add(start, widths), "middle": np.add(start, np.divide(widths, 2)),
        "draft": drafts, "cost": counts[cost] * COSTS[cost][1] / share,
    }  # fmt: skip
    extra = {name: counts[name] for name in ("tokens", "drafted", "accepted", "layers", "keys_read") if name in counts}
    return frame({**found, **extra, "step_ms": counts["seconds"] * 1e3})


def _tooltip(names: Any, unit: str, meaning: str) -> list[alt.Tooltip]:
    titles = {"tokens": "tokens of the step", "drafted": "drafted", "accepted": "accepted", "layers": "layers run",
              "keys_read": "keys read by a query", "step_ms": "step took [ms]"}  # fmt: skip
    return [
        alt.Tooltip("token:N"), alt.Tooltip("position:Q"), alt.Tooltip("step:Q", title="step (0 is the prefill)"),
        alt.Tooltip("cost:Q", title=f"{meaning} [{unit}]", format=".3~g"),
        *(alt.Tooltip(f"{name}:Q", title=title, format=".4~g") for name, title in titles.items() if name in names),
    ]  # fmt: skip
