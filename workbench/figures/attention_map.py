"""One attention head seen whole, and how far back all of them look."""

from __future__ import annotations

from itertools import pairwise

import altair as alt
import numpy as np
import xarray as xr

from workbench.figures._figure import ROWS, figure
from workbench.figures._parts import cell, heat_map, sparse_axis
from workbench.figures._reduce import frame
from workbench.figures._text import heading
from workbench.figures._theme import SEQUENTIAL


@figure("probes/attention_sparsity/map", "tokens/id")
def attention_map(tree: xr.DataTree) -> alt.TopLevelMixin:
    """Attention of one head, queries down and keys across, in bins that keep it below 5,000 cells.

    Pooling adds the attention over the keys of a bin and averages it over the queries of a bin, so that a row still
    sums to one. The colour grows with the square root of the share, so that faint attention can be seen.

    Parameters
    ----------
    tree : DataTree or Study
        With ``probes/attention_sparsity`` and its ``map``.
    """
    array = tree["probes/attention_sparsity/map"].transpose("query_bin", "key_bin")
    queries, keys, values = array["query_bin"].values, array["key_bin"].values, array.values
    side = int(np.sqrt(ROWS))
    rows, columns = (np.arange(0, size, -(-size // side)) for size in values.shape)
    values = np.add.reduceat(values, columns, axis=1)
    values = np.stack([block.mean(axis=0) for block in np.split(values, rows[1:])])
    queries, keys = queries[rows], keys[columns]
    table = frame({"query": np.repeat(queries, len(keys)), "key": np.tile(keys, len(queries)), "share": values})
    table = table[(table["share"] > 0) | (table["key"] <= table["query"])]
    tokens, seen = tree["tokens"].sizes["token"], tree["probes/attention_sparsity"].attrs.get("queries")
    binned = len(keys) < tokens or len(queries) < (seen or tokens)
    place = " of its bin's first token" if binned else ""
    chart = heat_map(
        table,
        ("key", f"key: position{place}"),
        ("query", f"query: position{place}"),
        ("share", "share of the attention"),
        [alt.Tooltip("query:O", title="query, from position"), alt.Tooltip("key:O", title="key, from position"),
         alt.Tooltip("share:Q", title="share of the attention", format=".3~g")],
        side=(cell(len(keys), 440), cell(len(queries), 440)),
        layers_up=False,
    )  # fmt: skip
    chart.encoding.color.scale = alt.Scale(scheme=SEQUENTIAL, type="sqrt", domainMin=0)
    chart.encoding.x.axis = sparse_axis(keys, 10)
    chart.encoding.y.axis = sparse_axis(queries, 16)
    notes = [
        f"{seen} of {tokens} queries were sampled." if seen and seen < tokens else "",
        f"{tokens} tokens in bins: summed over the keys, averaged over the queries." if binned else "",
    ]
    where = f"Attention of layer {array.attrs['layer']}, head {array.attrs['head']}"
    return chart.properties(title=heading(where, " ".join(filter(None, notes))))


@figure("probes/attention_sparsity/distance_histogram")
def attention_distance(tree: xr.DataTree) -> alt.TopLevelMixin:
    """How far back each layer looks: the share of its attention by distance to the key, mean over heads.

    Parameters
    ----------
    tree : DataTree or Study
        With ``probes/attention_sparsity`` and its ``distance_histogram``.
    """
    array = tree["probes/attention_sparsity/distance_histogram"].transpose("layer", "head", "distance_bin")
    mean = array.mean("head")
    edges = [int(edge) for edge in array["distance_bin"].values]
    names = [f"{low}" if high == low + 1 else f"{low} to {high - 1}" for low, high in pairwise(edges)] + [
        f"{edges[-1]} and more"
    ]
    layers, bins = mean.shape
    table = frame(
        {
            "layer": np.repeat(mean["layer"].values, bins),
            "distance": np.tile(np.array(names, dtype=object), layers),
            "share": mean.values,
        }
    )
    side = cell(layers, 420, 5, 18)
    return (
        alt.Chart(table)
        .mark_rect()
        .encode(
            x=alt.X("distance:O", sort=None, title="distance from query to key [tokens]")
            .axis(labelAngle=-40, ticks=False, domain=False),
            y=alt.Y("layer:O", sort="descending", title="layer", axis=sparse_axis(table["layer"])),
            color=alt.Color("share:Q", scale=alt.Scale(scheme=SEQUENTIAL, domainMin=0))
            .legend(title="share of the attention", format="%", gradientLength=160),
            tooltip=[alt.Tooltip("layer:O"), alt.Tooltip("distance:O", title="distance [tokens]"),
                     alt.Tooltip("share:Q", title="share of the attention", format=".2%")],
        )
        .properties(width=alt.Step(cell(bins, 520, 12, 44)), height=alt.Step(side))
        .properties(title=heading(f"How far back the layers of {tree.attrs['model']} look", "Mean over heads."))
    )  # fmt: skip
