"""How many drafted tokens each step kept."""

from __future__ import annotations

import altair as alt
import numpy as np
import pandas as pd
import xarray as xr

from workbench.figures._figure import figure
from workbench.figures._runs import decoded, group, index_of, labels
from workbench.figures._text import heading
from workbench.figures._theme import CATEGORIES

BARS = 120
COLUMNS = ["step", "left", "right", "drafted", "accepted", "kind", "low", "high"]


def _drafts(tree: xr.DataTree, run: int) -> bool:
    return bool((group(tree, "steps")["drafted"].isel(run=run) > 0).any())


@figure("steps/tokens", "steps/drafted", "steps/accepted", each_run=True, shows=_drafts)
def acceptance(tree: xr.DataTree, *, run: int | str | None = None, prompt: int | None = None) -> alt.TopLevelMixin:
    """Drafted and accepted tokens by step.

    Parameters
    ----------
    tree : DataTree or Study
        Of a study.
    run : int or str, optional
        Number or name; the last run if left out.
    prompt : int, optional
        The mean over all prompts that came so far if left out.
    """
    run = index_of(tree, run)
    steps = group(tree, "steps")[["drafted", "accepted"]].isel(run=run)
    chosen = steps if prompt is None else steps.isel(prompt=[prompt])
    drafted, accepted = (
        np.where((values := chosen[name].transpose("prompt", "step").values.astype(float)) < 0, np.nan, values)
        for name in ("drafted", "accepted")
    )
    reached = (~np.isnan(drafted)).any(axis=0)
    count = int(np.flatnonzero(reached)[-1]) + 1 if reached.any() else 0
    width = max(-(-(count - 1) // BARS), 1)
    rows = []
    for start in range(1, count, width):
        here = slice(start, min(start + width, count))
        known = ~np.isnan(drafted[:, here])
        if not known.any():
            continue
        tried, kept = (float(np.nansum(values[:, here]) / known.sum()) for values in (drafted, accepted))
        facts = {"step": start, "left": start - 0.4, "right": start + width - 0.6, "drafted": tried, "accepted": kept}
        rows.append({**facts, "kind": "drafted, accepted", "low": 0.0, "high": kept})
        rows.append({**facts, "kind": "drafted, rejected", "low": kept, "high": tried})
    table = pd.DataFrame(rows, columns=COLUMNS)
    kept, tried = np.nansum(accepted[:, 1:]), np.nansum(drafted[:, 1:])
    tokens, steps = (values[run] if prompt is None else values[run, [prompt]] for values in decoded(tree))
    notes = (
        f"{kept:.0f} of {tried:.0f} drafted tokens were accepted ({100 * kept / tried:.0f} %); mean accepted tokens "
        f"{tokens.sum() / steps.sum():.2f} ({steps.sum()} decode steps on {(steps > 0).sum()} of {len(steps)} prompts)."
        if tried else "This run drafts nothing.",
        "Mean over prompts." if prompt is None and len(drafted) > 1 else "",
        f"Each bar is the mean of {width} steps." if width > 1 else "",
    )  # fmt: skip
    order = ["drafted, accepted", "drafted, rejected"]
    chart = (
        alt.Chart(table)
        .mark_bar()
        .encode(
            x=alt.X("left:Q", title="step (the prefill, step 0, drafts nothing)")
            .axis(tickMinStep=1, format="d", grid=False)
            .scale(nice=False, zero=False),
            x2="right:Q",
            y=alt.Y("low:Q", title="tokens per step"),
            y2="high:Q",
            color=alt.Color("kind:N", title=None).scale(domain=order, range=[CATEGORIES[0], CATEGORIES[6]])
            .legend(orient="bottom"),
            tooltip=[alt.Tooltip("step:Q"), alt.Tooltip("drafted:Q", format=".3~g"),
                     alt.Tooltip("accepted:Q", format=".3~g")],
        )
    )  # fmt: skip
    return chart.properties(
        width=620, height=130, title=heading(f"Drafts of {labels(tree)[run]}", " ".join(filter(None, notes)))
    )
