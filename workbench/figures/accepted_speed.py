"""What accepted drafts are worth: tokens of each decode step against the wall-clock speed-up that came of them."""

from __future__ import annotations

from itertools import combinations

import altair as alt
import numpy as np
import pandas as pd
import xarray as xr

from workbench.errors import TraceError
from workbench.figures._drafts import tasks
from workbench.figures._figure import figure
from workbench.figures._labels import add_labels
from workbench.figures._parts import bars, point_tooltip
from workbench.figures._runs import INTERVALS, decoded, labels, runs, speed_point
from workbench.figures._text import heading
from workbench.figures._theme import CATEGORIES
from workbench.metrics import mean_interval

SIZE = (620, 380)
LINES = ["if drafting and wider forwards were free", "no gain"]
POINTS = 4000  # small points, of tasks


def _drafts(tree: xr.DataTree) -> bool:
    return bool((tree["steps/accepted"] > 0).any())


@figure("steps/accepted", "steps/drafted", "steps/tokens", "timing/speedup", when=_drafts)
def accepted_speed(tree: xr.DataTree) -> alt.TopLevelMixin:
    """Runs that draft by mean accepted tokens and measured speed-up, with a small point for each task.

    Mean accepted tokens are all tokens of decode steps over all decode steps, the model's own token included, as in the
    table. The upper line is the speed-up if drafting were free and a step that verifies took as long as the baseline's:
    it is then as large as that number. What a run lacks to it is what drafting, wider forwards and
    bookkeeping cost. Under the lower line a run loses, however much it keeps.

    Parameters
    ----------
    tree : DataTree or Study
        Of a study.

    Raises
    ------
    TraceError
        If no run that drafts has both numbers.
    """
    tokens, steps = decoded(tree)
    drafted = (tree["steps/drafted"] > 0).any(("prompt", "step")).values
    speed = tree["timing/speedup"].transpose("run", "prompt", "repeat").values
    kinds, rows, small = np.array(tasks(tree)), [], []
    for run, (facts, name) in enumerate(zip(runs(tree), labels(tree, 26), strict=True)):
        if not drafted[run]:
            continue
        row = {**speed_point(name, speed[run]), "technique": str(facts.get("technique") or "none")[:120]}
        row["kept"], row["kept_low"], row["kept_high"] = mean_interval(tokens[run], steps[run], least=1)
        rows.append(row)
        for task in dict.fromkeys(kinds):
            here = kinds == task
            kept = mean_interval(tokens[run][here], steps[run][here])[0]
            small.append({**speed_point(name, speed[run][here]), "run": row["run"], "task": task, "kept": kept})
    table = pd.DataFrame(rows).dropna(subset=["speed", "kept"]).reset_index(drop=True) if rows else pd.DataFrame()
    if table.empty:
        raise TraceError("no run that drafts has a speed-up")
    dots = pd.DataFrame(small).dropna(subset=["speed", "kept"])[:POINTS]
    across, up = _domains(pd.concat([table, dots]))
    add_labels(table, across, up, SIZE, names=("kept", "speed"))
    far = min(across[1], up[1])
    lines = pd.DataFrame(
        {"kept": [1.0, far, across[0], across[1]], "speed": [1.0, far, 1.0, 1.0],
         "line": LINES[:1] * 2 + LINES[1:] * 2}
    )  # fmt: skip
    x = alt.X("kept:Q", title="mean accepted tokens (per decode step, the model's own included)").scale(
        domain=across, nice=False, zero=False
    )
    y = alt.Y("speed:Q", title="measured speed-up over the baseline (times)").scale(domain=up, nice=False, zero=False)
    dashes = alt.StrokeDash("line:N", title=None).scale(domain=LINES, range=[[8, 4], [3, 3]])
    base = alt.Chart(table).encode(x=x, y=y)
    hover = alt.selection_point(name="hover_run", fields=["run"], on="pointerover", clear="pointerout", empty=False)
    layers = [
        alt.Chart(lines).mark_line(strokeWidth=1.3, color=CATEGORIES[6]).encode(
            x=x, y=y, strokeDash=dashes.legend(orient="bottom", symbolSize=400, labelLimit=320)
        ),
        alt.Chart(dots).mark_point(filled=True, size=26, color=CATEGORIES[0]).encode(
            x=x, y=y, opacity=alt.condition(hover, alt.value(1.0), alt.value(0.3)),
            tooltip=[alt.Tooltip("run:N"), alt.Tooltip("task:N"),
                     alt.Tooltip("kept:Q", title="mean accepted tokens", format=".2~f"),
                     alt.Tooltip("speed:Q", title="speed-up (times)", format=".3~f"),
                     alt.Tooltip("pairs:N", title="speed-up from prompts")],
        ),
        base.transform_filter("datum.far").mark_rule(opacity=0.5, strokeWidth=0.8).encode(x2="end_x:Q", y2="end_y:Q"),
        *bars(base, ("kept", "speed"), color=alt.value(CATEGORIES[1])),
        base.mark_point(filled=True, size=90, opacity=1, shape="diamond", color=CATEGORIES[1]).encode(
            tooltip=point_tooltip(kept="mean accepted tokens", speed="speed-up (times)")
        ).add_params(hover),
        base.mark_text(align="left", fontSize=11.5).encode(x="label_x:Q", y="label_y:Q", text="run:N"),
    ]  # fmt: skip
    intervals = f", with {INTERVALS}" if table[["speed_low", "kept_low"]].notna().any(axis=None) else ""
    notes = (
        f"Diamonds: runs, from {speed.shape[1]} prompt{'s' * (speed.shape[1] != 1)}{intervals}. {_disagreement(table)}",
        "Small points: their tasks; point at a run to find its own." if len(set(kinds)) > 1 else "",
    )
    title = heading("Mean accepted tokens against wall-clock speed-up", " ".join(filter(None, notes)))
    return alt.layer(*layers).properties(width=SIZE[0], height=SIZE[1], title=title)


def _disagreement(table: pd.DataFrame) -> str:
    """In how many pairs of runs the one that keeps more is the slower one."""
    pairs = [(one, other) for one, other in combinations(table[["kept", "speed"]].to_numpy(), 2) if one[0] != other[0]]
    against = sum((one[0] - other[0]) * (one[1] - other[1]) < 0 for one, other in pairs)
    if not pairs:
        return ""
    return f"In {against} of {len(pairs)} pairs of runs the one that keeps more is the slower one."


def _domains(table: pd.DataFrame) -> tuple[list[float], list[float]]:
    kept = max(float(table[["kept", "kept_high"]].max().max()), 1.25)
    low = min(float(table[["speed", "speed_low"]].min().min()), 1.0)
    high = max(float(table[["speed", "speed_high"]].max().max()), kept)
    room = 0.06 * (high - low)
    return [1 - 0.04 * (kept - 1), kept + 0.08 * (kept - 1)], [low - room, high + room]
