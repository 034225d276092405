"""What the model would say after each block through a trained lens, and how much nearer to the end that is."""

from __future__ import annotations

import altair as alt
import numpy as np
import pandas as pd
import xarray as xr

from workbench.figures._figure import figure
from workbench.figures._lens import Colour, lens_table
from workbench.figures._parts import sparse_axis
from workbench.figures._reduce import frame
from workbench.figures._text import heading
from workbench.figures._theme import CATEGORIES

_LENSES = {"tuned lens": ("tuned_lens", CATEGORIES[0]), "logit lens": ("logit_lens", CATEGORIES[1])}
_PANELS = {"kl_to_last": "KL of the last layer from this [nats]", "agrees": "same top token as the last"}


@figure("tokens/id", "probes/tuned_lens/top_token")
def tuned_lens(tree: xr.DataTree, *, last: int = 12, colour: Colour = "probability") -> alt.TopLevelMixin:
    """The table of :func:`workbench.figures.logit_lens`, of the tuned lens.

    Parameters
    ----------
    tree : DataTree or Study
        With ``probes/tuned_lens``.
    last : int
        How many tokens, counted from the end of the prompt; fewer if the cells would pass 5,000.
    colour : {"probability", "entropy", "kl", "rank"}
        What the colour of a cell says.

    Raises
    ------
    TraceError
        If the trace lacks what is asked for.
    """
    return lens_table(tree, "tuned_lens", "Tuned lens", last, colour)


@figure("probes/tuned_lens/kl_to_last", "probes/tuned_lens/final_rank")
def lens_distance(tree: xr.DataTree) -> alt.TopLevelMixin:
    """How far each layer is from the last one: divergence and agreement by layer, the logit lens beside it if it is
    there.

    Parameters
    ----------
    tree : DataTree or Study
        With ``probes/tuned_lens``, and maybe ``probes/logit_lens``.
    """
    tables = []
    for name, (probe, _) in _LENSES.items():
        if probe in tree["probes"].children and "kl_to_last" in tree[f"probes/{probe}"]:
            data = tree[f"probes/{probe}"].to_dataset()
            found = {
                "layer": data["layer"].values,
                "lens": np.full(data.sizes["layer"], name, dtype=object),
                "kl_to_last": data["kl_to_last"].mean("token").values,
                "agrees": (data["final_rank"] == 0).mean("token").values,
            }
            tables.append(frame(found))
    table = pd.concat(tables)
    kinds = list(table["lens"].unique())
    colours = [_LENSES[kind][1] for kind in kinds]
    base = alt.Chart(table).encode(
        x=alt.X("layer:O", title="after block", axis=sparse_axis(table["layer"], 32)),
        color=alt.Color("lens:N", title="lens").scale(domain=kinds, range=colours),
        shape=alt.Shape("lens:N", title="lens").scale(domain=kinds, range=["circle", "square"][: len(kinds)]),
        tooltip=[alt.Tooltip("lens:N"), alt.Tooltip("layer:O", title="after block")]
        + [alt.Tooltip(f"{field}:Q", title=title, format=".3~g") for field, title in _PANELS.items()],
    )
    marked = base.mark_line(point={"size": 36, "filled": True})
    axes = {
        "kl_to_last": alt.Y("kl_to_last:Q", title=_PANELS["kl_to_last"]),
        "agrees": alt.Y("agrees:Q", title=_PANELS["agrees"], axis=alt.Axis(format="%")).scale(domain=[0, 1]),
    }
    panels = [marked.encode(y=axis).properties(width=640, height=150) for axis in axes.values()]
    title = heading(f"How far the layers of {tree.attrs['model']} are from its last", "Means over the tokens read.")
    return alt.vconcat(*panels).properties(title=title)
