"""What each token of an answer cost, laid over the answer's own text."""

from __future__ import annotations

from typing import Any, Literal

import altair as alt
import numpy as np
import xarray as xr

from workbench.errors import TraceError
from workbench.figures._figure import ROWS, figure
from workbench.figures._reduce import frame
from workbench.figures._runs import each_token, group, index_of, labels
from workbench.figures._text import Texts, columns, flow, heading, shorten
from workbench.figures._theme import BRIGHT, CATEGORIES, LETTERS, MONOSPACE, SEQUENTIAL

COSTS = {
    "seconds": ("ms", 1e3, "measured wall clock of a token"),
    "layers": ("layers", 1, "sequential layers run for a token"),
    "keys_read": ("keys", 1, "keys read by a query of the step"),
    "flops": ("GFLOP", 1e-9, "counted operations of a token"),
    "bytes": ("MB", 1e-6, "counted bytes moved for a token"),
}
HOVER = {"tokens": "tokens of the step", "drafted": "drafted", "accepted": "accepted", "layers": "layers run",
         "keys_read": "keys read by a query", "step_ms": "step took [ms]"}  # fmt: skip
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
    evenly; the keys read are those of a query, so they are not divided. A triangle marks an accepted draft token. A
    character spread over several tokens stands in the cell of the last; the others are ``·``, and hovering gives their
    bytes.

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
    run, steps, texts = index_of(tree, run), group(tree, "steps"), group(tree, "text").isel(run=index_of(tree, run))
    if cost not in COSTS or cost not in steps:
        raise TraceError(f"cost={cost!r} is none of {', '.join(name for name in COSTS if name in steps)}")
    if not 0 <= prompt < texts.sizes["prompt"]:
        raise TraceError(f"there is no prompt {prompt}; the study has {texts.sizes['prompt']}")
    text, steps = texts.isel(prompt=prompt), steps.isel(prompt=prompt)
    total = int((text["id"] >= 0).sum())
    shown = min(total, first, ROWS)
    if not shown:
        raise TraceError(f"run {labels(tree)[run]!r} made no tokens for prompt {prompt}")
    each = each_token(steps, cost) * COSTS[cost][1]
    later = each.isel(step=slice(1, None)).values
    known = later[np.isfinite(later)] if np.isfinite(later).any() else each.values[np.isfinite(each.values)]
    if not len(known):
        raise TraceError(f"the {COSTS[cost][2]} is not known for any token of prompt {prompt}")
    top = float(np.quantile(known, 0.98)) or 1.0
    table = _cells(Texts(tree), text.isel(token=slice(shown)), steps.isel(run=run), each.isel(run=run).values)
    table["bright"] = table["cost"] > BRIGHT * top
    unit, _, meaning = COSTS[cost]
    x = alt.X("start:Q", axis=None, scale=alt.Scale(domain=[0, WIDTH], nice=False))
    base = alt.Chart(table).encode(y=alt.Y("row:O", axis=None), tooltip=_tooltip(table.columns, unit, meaning))
    cells = base.mark_rect(height=19, yOffset=-4).encode(
        x=x, x2="end:Q",
        color=alt.Color("cost:Q", scale=alt.Scale(scheme=SEQUENTIAL, domain=[0, top], clamp=True))
        .legend(title=f"{meaning} [{unit}]", orient="bottom", gradientLength=260),
    )  # fmt: skip
    letters = base.mark_text(font=MONOSPACE, fontSize=11, align="center", yOffset=-4).encode(
        x="middle:Q", text="token:N", color=LETTERS
    )
    triangles = base.transform_filter("datum.draft == 1").mark_point(
        shape="triangle-up", size=26, filled=True, color=CATEGORIES[1], opacity=1, yOffset=11
    )
    notes = (
        "Triangle: a drafted token that was accepted." if (table["draft"] == 1).any() else "",
        f"The first {shown} of {total} tokens are shown." if shown < total else "",
        f"The first token's step is the prefill. Colour is full at {top:.3g} {unit}, for all runs alike.",
    )
    title = heading(f"What each token cost: {labels(tree)[run]}, prompt {prompt}", " ".join(filter(None, notes)))
    strip = alt.layer(cells, letters, triangles.encode(x="middle:Q"))
    return strip.properties(width=WIDTH * LETTER, height=30 * int(table["row"].max() + 1), title=title)


def _cells(texts: Texts, text: xr.Dataset, steps: xr.Dataset, each: np.ndarray) -> Any:
    made, ids = text["step"].values, text["id"].values
    added = texts.added(text)
    words = [shorten(word, 20) for word in added]
    widths = [columns(word) + 0.6 for word in words]
    start, row = flow(widths, made, [word.endswith("⏎") for word in added], WIDTH)
    place = {"start": start, "end": start + widths, "middle": start + np.divide(widths, 2), "row": row}
    facts = {name: steps[name].values[made] for name in HOVER if name in steps}
    facts |= {"step_ms": steps["seconds"].values[made] * 1e3, "draft": text["accepted_draft"].values}
    facts["said"] = [shorten(name, 24) for name in texts.named(text)]
    return frame({"token": words, "position": np.arange(len(ids)), "step": made, "cost": each[made], **place, **facts})


def _tooltip(names: Any, unit: str, meaning: str) -> list[alt.Tooltip]:
    tooltips = [
        alt.Tooltip("said:N", title="token"),
        alt.Tooltip("position:Q"),
        alt.Tooltip("step:Q", title="step (0 is the prefill)"),
    ]
    tooltips.append(alt.Tooltip("cost:Q", title=f"{meaning} [{unit}]", format=".3~g"))
    known = {key: title for key, title in HOVER.items() if key in names}
    return tooltips + [alt.Tooltip(f"{key}:Q", title=title, format=".4~g") for key, title in known.items()]
