"""How few keys each attention head needs, by layer and head."""

from __future__ import annotations

from typing import Literal

import altair as alt
import numpy as np
import xarray as xr

from workbench.errors import TraceError
from workbench.figures._figure import ROWS, figure
from workbench.figures._parts import cell, heat_map
from workbench.figures._reduce import frame, pool
from workbench.figures._text import heading

STATISTICS = {
    "keys_needed_share": "share of the visible keys",
    "keys_needed": "keys",
    "entropy": "entropy [nats]",
    "first_share": "share of the attention",
    "recent_share": "share of the attention",
}


@figure("probes/attention_sparsity/keys_needed_share")
def attention_sparsity(
    tree: xr.DataTree,
    *,
    statistic: Literal["keys_needed_share", "keys_needed", "entropy", "first_share", "recent_share"] = (
        "keys_needed_share"
    ),
    mass: float = 0.95,
) -> alt.TopLevelMixin:
    """A map of layers and heads, coloured by one statistic; hovering gives all of them.

    Parameters
    ----------
    tree : DataTree or Study
        With ``probes/attention_sparsity``.
    statistic : str
        ``keys_needed_share`` and ``keys_needed`` (for ``mass`` of the attention), ``entropy``, ``first_share``
        (attention on the first tokens) or ``recent_share`` (on the recent window).
    mass : float
        One of the trace's masses, usually 0.9, 0.95 and 0.99.

    Raises
    ------
    TraceError
        If the trace has no such statistic or mass.
    """
    data = tree["probes/attention_sparsity"].to_dataset()
    if statistic not in STATISTICS or statistic not in data:
        raise TraceError(f"statistic={statistic!r} is none of {', '.join(n for n in STATISTICS if n in data)}")
    near = int(np.argmin(np.abs(data["mass"].values - mass)))
    if abs(float(data["mass"].values[near]) - mass) > 1e-6:
        raise TraceError(f"mass={mass} was not measured; the trace has {data['mass'].values.tolist()}")
    data = data[[name for name in STATISTICS if name in data]].isel(mass=near)
    reduced, size = {}, 1
    for name in data.data_vars:
        heads = max(ROWS // data.sizes["layer"], 1)
        reduced[name], size = pool(data[name].transpose("layer", "head"), "head", heads)
    shape = reduced[statistic].shape
    layers = data["layer"].values
    table = frame(
        {
            "layer": np.repeat(layers, shape[1]),
            "head": np.tile(np.arange(shape[1]) * size, shape[0]),
            **{name: array.values for name, array in reduced.items()},
        }
    )
    wanted = f"{100 * mass:g} %"
    names = {
        "keys_needed_share": f"Share of the visible keys needed for {wanted} of the attention",
        "keys_needed": f"Keys needed for {wanted} of the attention",
        "entropy": "Entropy of the attention over keys [nats]",
        "first_share": "Share of the attention on the first tokens",
        "recent_share": "Share of the attention on the recent window",
    }
    tooltip = [alt.Tooltip("layer:O"), alt.Tooltip("head:O")] + [
        alt.Tooltip(f"{name}:Q", title=names[name], format=".3~g") for name in reduced
    ]
    share = statistic.endswith("share")
    note = f"Each column is the mean of {size} neighbouring heads." if size > 1 else ""
    shares = (0.0, 1.0) if statistic in ("first_share", "recent_share") else None
    return heat_map(
        table,
        ("head", "attention head"),
        ("layer", "layer"),
        (statistic, STATISTICS[statistic]),
        tooltip,
        side=(cell(shape[1], 560, 5, 44), cell(shape[0], 420, 5, 18)),
        domain=shares,
        percent=share,
    ).properties(title=heading(names[statistic], f"{tree.attrs['model']}; mean over the sampled queries.", note))
