"""The draft of one step as a tree: what was guessed, what was accepted, and what the model itself said then."""

from __future__ import annotations

from typing import Any

import altair as alt
import numpy as np
import pandas as pd
import xarray as xr

from workbench.errors import TraceError
from workbench.figures._drafts import drafts_of, nodes
from workbench.figures._figure import figure
from workbench.figures._runs import group, index_of, labels
from workbench.figures._text import Texts, heading, shorten
from workbench.figures._theme import CATEGORIES, MONOSPACE

ROWS = 4800
LEVELS = 24  # positions drawn
WIDTH = 1000
KINDS = {"accepted": CATEGORIES[0], "rejected": CATEGORIES[6], "the model's own": CATEGORIES[2]}


@figure("drafts/token", "drafts/parent", "text/id", "text/step", each_run=True, shows=drafts_of)
def draft_tree(tree: xr.DataTree, *, run: int | str | None = None, prompt: int | None = None) -> alt.TopLevelMixin:
    """A step's draft, position by position from left to right; the step is chosen from a list.

    The first point is the last token before the step, the last green one is the token that the model itself chose after
    what it accepted.

    Parameters
    ----------
    tree : DataTree or Study
    run : int or str, optional
        Number or name; the last run if left out.
    prompt : int, optional
        The first prompt that something was drafted for if left out.

    Raises
    ------
    TraceError
        If nothing was drafted there.
    """
    run = index_of(tree, run)
    table = nodes(tree, run)
    if prompt is None and len(table):
        prompt = int(table["prompt"].iloc[0])
    table = table[table["prompt"] == prompt]
    if table.empty:
        raise TraceError(f"run {labels(tree)[run]!r} drafted nothing for prompt {prompt}")
    levels = min(int(table["depth"].max()), LEVELS)
    wide = float(np.clip(WIDTH / (levels + 2), 38, 120))
    steps = table.groupby("step", sort=True)
    shown = np.cumsum(steps.size() + 2) <= ROWS
    text, words = group(tree, "text").isel(run=run, prompt=prompt), Texts(tree)
    rows = [row for step, part in steps if shown[step] for row in _step(int(step), part, text, words)]
    drawn = pd.DataFrame(rows).sort_values("strong", kind="stable")  # what was accepted lies over the rest
    drawn["label"] = [shorten(word, max(int(wide / 7.5), 2)) for word in drawn["token"]]
    listed = sorted(drawn["step"].unique().tolist())
    best = drawn[drawn["kind"] == "accepted"].groupby("step").size()
    first = int(best.idxmax()) if len(best) else listed[0]
    picked = alt.param(name="draft_step", value=first, bind=alt.binding_select(options=listed, name="step "))
    tall = float(np.clip(26 * drawn.groupby("step")["y"].max().max() + 60, 110, 900))
    base = alt.Chart(drawn).transform_filter("datum.step == draft_step")
    axis = alt.Axis(
        title="position in the draft",
        values=list(range(1, levels + 1)),
        format="d",
        domain=False,
        ticks=False,
        grid=False,
    )
    across, down = alt.Scale(domain=[-0.5, levels + 1.5], nice=False), alt.Scale(reverse=True, zero=False, padding=22)

    def at(x: str, y: str) -> dict[str, Any]:
        return {"x": alt.X(f"{x}:Q", axis=axis, scale=across), "y": alt.Y(f"{y}:Q", axis=None, scale=down)}

    kinds = alt.Color("kind:N", title=None).scale(domain=list(KINDS), range=list(KINDS.values()))
    shapes = alt.Shape("kind:N", title=None).scale(domain=list(KINDS), range=["circle", "cross", "diamond"])
    hover = [alt.Tooltip("token:N"), alt.Tooltip("kind:N", title="was"), alt.Tooltip("x:Q", title="position"),
             alt.Tooltip("confidence:Q", title="drafter's probability", format=".1%")]  # fmt: skip
    lines = base.mark_rule(strokeWidth=1.2, strokeCap="round").encode(
        color=kinds, opacity=alt.Opacity("strong:Q", scale=None, legend=None)
    )
    # Square corners halfway between the positions: a slanted line would run through the words.
    layers = [
        lines.encode(**at("from_x", "from_y"), x2="bend:Q"),
        lines.encode(**at("bend", "from_y"), y2="y:Q"),
        lines.encode(**at("bend", "y"), x2="x:Q"),
        base.mark_point(size=70, filled=True, opacity=1).encode(
            **at("x", "y"), color=kinds.legend(orient="bottom"), shape=shapes.legend(orient="bottom"), tooltip=hover
        ),
        base.mark_text(dy=-11, font=MONOSPACE, fontSize=11).encode(**at("x", "y"), text="label:N", tooltip=hover),
    ]
    notes = (
        f"{len(listed)} of {len(shown)} steps can be chosen." if not shown.all() else "",
        f"Positions beyond {LEVELS} are not drawn." if (table["depth"] > LEVELS).any() else "",
        "The first token is the last one before the draft; at first the step that kept most is shown.",
    )
    title = heading(f"The draft of one step: {labels(tree)[run]}, prompt {prompt}", " ".join(filter(None, notes)))
    return alt.layer(*layers).add_params(picked).properties(width=wide * (levels + 2), height=tall, title=title)


def _step(step: int, table: pd.DataFrame, text: xr.Dataset, words: Texts) -> list[dict[str, Any]]:
    """Points of a step with the points they hang on: the token before, the drafted ones, the model's own."""
    ids, made = text["id"].values, text["step"].values
    before, own = ids[(made >= 0) & (made < step)], ids[made == step]
    kept = np.flatnonzero(table["kept"].to_numpy() == 1)
    last = int(kept[-1]) if len(kept) else -1
    table = table[table["depth"] <= LEVELS]
    parents, depths = table["parent"].tolist(), table["depth"].tolist()
    kinds = np.where(table["kept"] == 1, "accepted", "rejected").tolist()
    tokens, chances = table["token"].tolist(), table["confidence"].tolist()
    # A text that ended within the draft has no token of the model after it.
    if last < len(parents) and len(own) > len(kept):
        parents.append(last)
        depths.append(1 if last < 0 else depths[last] + 1)
        kinds.append("the model's own")
        tokens.append(int(own[-1]))
        chances.append(np.nan)
    heights = layout(parents)
    first = [height for height, parent in zip(heights, parents) if parent < 0]
    root = (0, (first[0] + first[-1]) / 2)
    places = [*zip(depths, heights), root]  # a parent of -1 is the last of them
    begin = words[int(before[-1])] if len(before) else "∅"
    rows = [(begin, "accepted", root, root, np.nan)]
    rows += [
        (words[int(token)], kind, places[node], places[parents[node]], chance)
        for node, (token, kind, chance) in enumerate(zip(tokens, kinds, chances))
    ]
    return [
        {"step": step, "token": token, "kind": kind, "x": here[0], "y": here[1], "from_x": start[0], "from_y": start[1],
         "bend": (here[0] + start[0]) / 2, "confidence": chance, "strong": 0.45 if kind == "rejected" else 1.0}
        for token, kind, here, start, chance in rows
    ]  # fmt: skip


def layout(parents: list[int]) -> list[float]:
    """Heights of the nodes of a forest: leaves in rows of their own, a parent in the middle of its children.

    Parameters
    ----------
    parents : list of int
        Place of each node's parent, -1 for a root; parents before children.
    """
    children: dict[int, list[int]] = {}
    for node, parent in enumerate(parents):
        children.setdefault(parent, []).append(node)
    order, stack = [], list(reversed(children.get(-1, [])))
    while stack:
        order.append(node := stack.pop())
        stack += reversed(children.get(node, []))
    heights, row = [0.0] * len(parents), 0
    for node in order:
        if node not in children:
            heights[node], row = float(row), row + 1
    for node in reversed(order):
        if node in children:
            heights[node] = (heights[children[node][0]] + heights[children[node][-1]]) / 2
    return heights
