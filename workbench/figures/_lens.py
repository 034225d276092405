"""The table of what a lens reads in every layer, for the figures of the probes that have one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import altair as alt
import numpy as np
import xarray as xr

from workbench.errors import TraceError
from workbench.figures._figure import ROWS
from workbench.figures._reduce import frame
from workbench.figures._text import Texts, heading, shorten
from workbench.figures._theme import BRIGHT, CATEGORIES, LETTERS, MONOSPACE, SEQUENTIAL

Colour = Literal["probability", "entropy", "kl", "rank"]
COLOURS = {
    "probability": ("top_probability", "probability of the top token"),
    "entropy": ("entropy", "entropy [nats]"),
    "kl": ("kl_to_last", "KL divergence of the last layer from this one [nats]"),
    "rank": ("final_rank", "rank of the final token (0 is best)"),
}

TITLES = {
    "final_rank": "its rank here", "final_probability": "its probability here",
    "entropy": "entropy [nats]", "kl_to_last": "KL of the last layer from this [nats]",
}  # fmt: skip


def lens_table(tree: xr.DataTree, probe: str, name: str, last: int, colour: Colour) -> alt.LayerChart:
    """A table of top tokens, one row per layer and one column per token of the prompt.

    Parameters
    ----------
    tree : DataTree
    probe : str
        Whose group it is, written as :class:`workbench.probes.LogitLens` writes its own.
    name : str
        What the title calls it.
    last, colour
        As of :func:`workbench.figures.logit_lens`.

    Raises
    ------
    TraceError
        If the trace lacks what is asked for.
    """
    data = tree[f"probes/{probe}"].to_dataset()
    if colour not in COLOURS or COLOURS[colour][0] not in data:
        raise TraceError(f"colour={colour!r} is none of {', '.join(k for k, v in COLOURS.items() if v[0] in data)}")
    total, layers = data.sizes["token"], data.sizes["layer"]
    kept = min(max(last, 1), total, max(ROWS // layers, 1))
    data = data.isel(token=slice(total - kept, total))
    table = _table(tree, data, total - kept, COLOURS[colour][0], colour == "rank")
    wide, tall = float(np.clip(760 // kept, 12, 86)), 20 if layers <= 40 else 13
    base = alt.Chart(table).encode(
        x=alt.X("token:N", sort=None, title="token of the prompt, with its position")
        .axis(labelAngle=-40 if wide >= 34 else -90, labelLimit=130, labelOverlap=False, ticks=False, domain=False),
        y=alt.Y("layer:O", sort="descending", title="after block")
        .axis(labelExpr="datum.value < 0 ? 'embedding' : datum.value", ticks=False, domain=False),
        tooltip=_tooltip(table.columns),
    )  # fmt: skip
    top = float(np.nanmax(table["value"]))
    scale = alt.Scale(scheme=SEQUENTIAL, domain=[0, 1 if colour == "probability" else top or 1])
    if colour == "rank":
        scale = alt.Scale(scheme=SEQUENTIAL, type="symlog", domain=[0, max(top, 1)], reverse=True)
    legend = alt.Legend(title=COLOURS[colour][1], orient="bottom", gradientLength=260)
    cells = base.mark_rect().encode(color=alt.Color("value:Q", scale=scale, legend=legend))
    outline = base.mark_rect(fillOpacity=0, stroke=CATEGORIES[1], strokeWidth=2).transform_filter("datum.settles")
    marks = [cells, outline]
    if wide >= 34:
        letters = base.mark_text(font=MONOSPACE, fontSize=10.5 if tall > 15 else 9, limit=wide - 4)
        marks.append(letters.encode(text="top:N", color=LETTERS))
    notes = (
        f"Tokens {total - kept} to {total - 1} of {total} are shown." if kept < total else "",
        "Outlined: from this layer on, the top token is the last layer's." if "settle_layer" in data else "",
    )
    title = heading(f"{name} of {tree.attrs['model']}", *notes)
    return alt.layer(*marks).properties(width=alt.Step(wide), height=alt.Step(tall), title=title)


def _table(tree: xr.DataTree, data: xr.Dataset, start: int, value: str, ranks: bool) -> Any:
    texts, data = Texts(tree), data.transpose("layer", "token", "candidate")
    # All tokens are read, as the first of those that are shown may complete a character.
    inputs = texts.named(tree["tokens"].to_dataset())[start:]
    names = np.array([f"{start + i} {shorten(name, 16)}" for i, name in enumerate(inputs)], dtype=object)
    layers, tokens = data["layer"].values, data["top_token"].values
    columns = {"layer": np.repeat(layers, len(names)), "token": np.tile(names, len(layers))}
    columns["top"] = _words(texts.short(token) for token in tokens[..., 0].ravel())
    columns |= {name: data[name].values for name in TITLES if name in data}
    if "final_token" in data:
        columns["final"] = np.tile(_words(texts.short(token) for token in data["final_token"].values), len(layers))
    chances = data["top_probability"].values
    for place in range(tokens.shape[-1]):
        pairs = zip(tokens[..., place].ravel(), chances[..., place].ravel(), strict=True)
        columns[f"top {place + 1}"] = _words(f"{texts.short(token)}  {100 * chance:.3g} %" for token, chance in pairs)
    shown = chances[..., 0] if value == "top_probability" else data[value].values.astype(float)
    largest = 1 if value == "top_probability" else np.nanmax(shown) or 1
    share = 1 - np.log1p(shown) / np.log1p(largest) if ranks else shown / largest
    settles = layers[:, None] == data["settle_layer"].values if "settle_layer" in data else np.zeros(shown.shape, bool)
    return frame({**columns, "value": shown, "bright": share > BRIGHT, "settles": settles})


def _words(words: Iterable[str]) -> np.ndarray:
    return np.array(list(words), dtype=object)


def _tooltip(columns: Any) -> list[alt.Tooltip]:
    tooltips = [alt.Tooltip("token:N"), alt.Tooltip("layer:O", title="after block (-1 is the embedding)")]
    tooltips += [alt.Tooltip(f"{name}:N") for name in columns if name.startswith("top ")]
    tooltips += [alt.Tooltip("final:N", title="final token")] if "final" in columns else []
    return tooltips + [
        alt.Tooltip(f"{name}:Q", title=title, format=".3~g") for name, title in TITLES.items() if name in columns
    ]
