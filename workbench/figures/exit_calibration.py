"""Whether exits know when they are right: lenses behind plain thresholds against exits with trained gates."""

from __future__ import annotations

import json

import altair as alt
import numpy as np
import pandas as pd
import xarray as xr

from workbench.figures._figure import figure
from workbench.figures._reduce import frame
from workbench.figures._reliability import panel, table_of
from workbench.figures._text import heading
from workbench.figures._theme import CATEGORIES
from workbench.metrics.calibration import Reliability

_SAYS = {"full model": "says the full model's token (share)", "text": "says the text's token (share)"}


@figure("exit_calibration/share", "exit_calibration/error", "exit_calibration/tokens")
def exit_calibration(tree: xr.DataTree) -> alt.TopLevelMixin:
    """For each reader and each token that it could say a reliability diagram of the tokens that leave by it, and below
    the expected calibration error of all tokens, exit by exit.

    Parameters
    ----------
    tree : DataTree
        Of :func:`workbench.exit_calibration`.
    """
    data = tree["exit_calibration"].to_dataset()
    readers, places, targets = (json.loads(tree.attrs[name]) for name in ("readers", "places", "targets"))
    colours = dict(zip(readers, CATEGORIES))
    rows = []
    for target, named in enumerate(targets):
        panels = []
        for reader, name in enumerate(readers):
            at = data.isel(reader=reader, place=-1)
            found = _reliability(at, target)
            note = f"ECE {found.error:.3f}, n {int(at['tokens'])}" if int(at["tokens"]) else "no token leaves"
            titles = ("right", note)
            table = table_of(found).assign(reader=name)
            most = max(1, int(data["count"].isel(place=-1).max()))
            up = _SAYS.get(named, named)
            panels.append(panel(table, ("reader", name), "confidence", up, titles, most, colours[name]))
        rows.append(alt.hconcat(*panels, spacing=20))
    lines = alt.hconcat(
        *(_lines(data, readers, places, target, name) for target, name in enumerate(targets)), spacing=34
    )
    cutoffs = [
        f"{name} above {float(cutoff):.2f}"
        for name, cutoff in zip(readers, data["cutoff"].values)
        if np.isfinite(cutoff)
    ]
    depths = ", ".join(f"{name} {float(depth):.1f}" for name, depth in zip(readers, data["layers"].values))
    title = heading(
        f"Confidence of exits of {tree.attrs['model']}",
        f"Above, tokens where they leave: as many by each ({'; '.join(cutoffs)}; joint exits by their gates). Dashed: "
        "one who is right as often as it is sure; bars: 95 % intervals; areas grow with the tokens of a bin.",
        f"Below, all {int(data['tokens'].isel(reader=0, place=0))} tokens, leaving or not. Layers a token: {depths}.",
    )
    return alt.vconcat(*rows, lines, spacing=18).properties(title=title)


def _reliability(at: xr.Dataset, target: int) -> Reliability:
    """What was found of one reader at one place."""
    of = at.isel(target=target)
    return Reliability(*(of[name].values for name in ("count", "confidence", "share", "low", "high")))


def _lines(data: xr.Dataset, readers: list[str], places: list[int], target: int, named: str) -> alt.Chart:
    at = data.isel(target=target, place=slice(0, -1))
    count = len(places) - 1
    table: pd.DataFrame = frame(
        {
            "reader": np.repeat(np.array(readers, dtype=object), count),
            "layer": np.tile(np.array(places[:-1]), len(readers)),
            "error": at["error"].values,
            "accuracy": at["accuracy"].values,
            "tokens": at["tokens"].values,
        }
    )
    colour = alt.Color("reader:N", title=None, sort=readers).scale(
        domain=readers, range=list(CATEGORIES[: len(readers)])
    )
    base = alt.Chart(table).encode(
        x=alt.X("layer:Q", title="exit after block").scale(nice=False, padding=12, zero=False).axis(
            values=places[:-1], format="d"
        ),
        y=alt.Y("error:Q", title="expected calibration error").scale(zero=True),
        color=colour.legend(orient="bottom"),
        tooltip=[alt.Tooltip("reader:N"), alt.Tooltip("layer:Q", title="exit after block"),
                 alt.Tooltip("error:Q", title="expected calibration error", format=".3f"),
                 alt.Tooltip("accuracy:Q", title=f"says the {named}'s token", format=".1%"), alt.Tooltip("tokens:Q")],
    )  # fmt: skip
    shape = alt.Shape("reader:N", title=None, sort=readers).scale(domain=readers).legend(orient="bottom")
    title = alt.TitleParams(text=f"against the {named}'s token", fontSize=12, offset=6)
    layers = base.mark_line(strokeWidth=1.2), base.mark_point(filled=True, size=60, opacity=1).encode(shape=shape)
    return alt.layer(*layers).properties(width=235, height=150, title=title)
