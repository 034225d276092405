"""Layers that exits save against the wording that is left."""

from __future__ import annotations

import json

import altair as alt
import numpy as np
import xarray as xr

from workbench.figures._figure import ROWS, figure
from workbench.figures._parts import bars
from workbench.figures._reduce import frame, spread
from workbench.figures._text import heading, visible
from workbench.figures._theme import CATEGORIES

_KINDS = {"rouge_l": "the full model's answer", "rouge_l_reference": "the reference, of the full model's"}


@figure("exit_frontier/layers_saved", "exit_frontier/rouge_l", "exit_frontier/reference_lost")
def exit_frontier(tree: xr.DataTree, *, layers: float = 0.25) -> alt.TopLevelMixin:
    """A point for each setting with 95 % intervals; in the corner are those that save enough and lose little.

    Parameters
    ----------
    tree : DataTree
        Of :func:`workbench.exit_frontier`.
    layers : float
        Share of the layers that is to be saved.
    """
    data = tree["exit_frontier"].to_dataset()
    kept = spread(data.sizes["setting"], ROWS // len(_KINDS) - 2)
    names = json.loads(data.attrs["settings"])
    within, n, references = (data.attrs[name] for name in ("within", "prompts", "references"))
    kinds = list(_KINDS.values())[: 2 if references else 1]
    columns = {
        "setting": np.tile([visible(names[place], spaces=False) for place in kept], len(kinds)),
        "kind": np.repeat(np.array(kinds, dtype=object), len(kept)),
    }
    for name in ("layers_saved", "flops_saved", "written"):
        columns[name] = np.tile(data[name].values[kept], len(kinds))
    for end, other in (("", ""), ("_low", "_high"), ("_high", "_low")):
        columns[f"layers_saved{end}"] = np.tile(data[f"layers_saved{end}"].values[kept], len(kinds))
        values = [data[f"rouge_l{end}"].values[kept], 1 - data[f"reference_lost{other}"].values[kept]]
        columns[f"left{end}"] = np.concatenate(values[: len(kinds)])
    table = frame(columns)
    colour = alt.Color("kind:N", title="ROUGE-L with", sort=kinds,
                       scale=alt.Scale(domain=kinds, range=list(CATEGORIES[: len(kinds)])))  # fmt: skip
    base = alt.Chart(table).encode(color=colour)
    across = alt.X("layers_saved:Q", title="layers saved of a decoded token", axis=alt.Axis(format="%"))
    up = alt.Y("left:Q", title=f"ROUGE-L of {data.attrs['by']} that is left", axis=alt.Axis(format="%"))
    hover = [alt.Tooltip("setting:N"), alt.Tooltip("kind:N", title="with")]
    hover += [alt.Tooltip(f"{name}:Q", title=title, format=".1%") for name, title in (
        ("layers_saved", "layers saved"), ("flops_saved", "operations saved, counted"), ("left", "ROUGE-L left"),
        ("left_low", "  low"), ("left_high", "  high"), ("written", "tokens written"))]  # fmt: skip
    shape = alt.Shape("kind:N", title="ROUGE-L with", sort=kinds)
    points = base.mark_point(filled=True, size=70).encode(x=across, y=up, shape=shape, tooltip=hover)
    goal = frame({"layers_saved": np.array([layers]), "left": np.array([1 - within])})
    lines = [alt.Chart(goal).mark_rule(color=CATEGORIES[6], strokeDash=[4, 3]).encode(**{axis: f"{field}:Q"})
             for axis, field in (("x", "layers_saved"), ("y", "left"))]  # fmt: skip
    crossed = _crossed(base, table)
    best = int(data.attrs["best"])
    title = heading(
        f"What exits of {tree.attrs['model']} save and lose",
        f"{n} prompts, {references} with a reference. Above and right of the dashed lines: within {within:.0%} of "
        f"ROUGE-L and {layers:.0%} of the layers saved.",
        f"Most saved within {within:.0%} of the full model's answers: {data['layers_saved'].values[best]:.1%} of the "
        f"layers, by {visible(names[best], spaces=False)}.",
    )
    return alt.layer(*lines, *crossed, points).properties(title=title, width=460, height=340)


def _crossed(base: alt.Chart, table: object) -> list[alt.Chart]:
    """Intervals both ways; none where there are too few prompts for any."""
    known = table[["layers_saved_low", "left_low"]].notna().to_numpy()
    return bars(base, ("layers_saved", "left")) if known.any() else []
