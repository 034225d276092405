"""Which experts of a mixture work together, and how evenly the work is spread, one layer at a time."""

from __future__ import annotations

import altair as alt
import numpy as np
import pandas as pd
import xarray as xr

from workbench.errors import TraceError
from workbench.figures._figure import figure
from workbench.figures._parts import cell, sparse_axis
from workbench.figures._reduce import significant, spread
from workbench.figures._text import heading
from workbench.figures._theme import CATEGORIES, SEQUENTIAL

EXPERTS = 64  # 64 x 64 cells are drawn at once, below the 5,000 that a page bears
NUMBERS = 50_000  # rates in a page, and as many by chance, over all layers that can be chosen


@figure("probes/expert_coactivation/coactivation", "probes/expert_coactivation/load")
def expert_coactivation(tree: xr.DataTree, *, layer: int | None = None) -> alt.TopLevelMixin:
    """Co-activation of all pairs of experts beside the load of each, for a layer chosen from a list.

    A row of data holds one expert's rates with all others and the page unfolds only the chosen layer, so that every
    layer is at hand and only one is drawn.

    Parameters
    ----------
    tree : DataTree or Study
        With ``probes/expert_coactivation``.
    layer : int, optional
        The layer shown first; the first sparse one if left out.

    Raises
    ------
    TraceError
        If ``layer`` is not a sparse layer of the trace.
    """
    data = tree["probes/expert_coactivation"].to_dataset()
    numbers = data["layer"].values.tolist()
    first = numbers[0] if layer is None else layer
    if first not in numbers:
        raise TraceError(f"layer {layer} is not among the sparse layers {numbers}")
    load = data["load"].transpose("layer", "expert").values
    total = load.shape[1]
    experts = np.sort(np.argsort(-load.mean(0), kind="stable")[:EXPERTS])
    chosen = {int(i) for i in spread(len(numbers), max(NUMBERS // len(experts) ** 2, 1))} | {numbers.index(first)}
    pairs = data["coactivation"].transpose("layer", "expert", "other_expert").values
    chance = data["expected"].transpose("layer", "expert", "other_expert").values if "expected" in data else None
    rows = []
    for index in sorted(chosen):
        for expert in experts:
            rates = significant(pairs[index, expert, experts], 3)
            by_chance = rates if chance is None else significant(chance[index, expert, experts], 3)
            rows.append(
                {"layer": numbers[index], "expert": int(expert), "load": float(significant(load[index, expert])),
                 "alone": float(rates[list(experts).index(expert)]), "rates": rates.tolist(),
                 "chances": by_chance.tolist(), "others": experts.tolist()}
            )  # fmt: skip
    shown = sorted(numbers[index] for index in chosen)
    control = alt.binding_select(options=shown, name="layer ")
    picked = alt.param(name="sparse_layer", value=first, bind=control)
    base = alt.Chart(pd.DataFrame(rows)).transform_filter("datum.layer == sparse_layer")
    side = cell(len(experts), 400, 5, 26)
    beyond = [] if chance is None else [
        alt.Tooltip("chance:Q", title="by chance, of experts loaded so", format=".2%"),
        alt.Tooltip("excess:Q", title="beyond chance", format="+.2%"),
    ]  # fmt: skip
    order = alt.Y("expert:O", title="expert", axis=sparse_axis(experts))
    left = (
        base.transform_flatten(["rates", "chances", "others"], ["rate", "chance", "other"])
        .transform_filter("datum.expert != datum.other")
        .transform_calculate(excess="datum.rate - datum.chance")
        .mark_rect()
        .encode(
            x=alt.X("other:O", title="other expert", axis=sparse_axis(experts, 16)),
            y=order,
            color=alt.Color("rate:Q", scale=alt.Scale(scheme=SEQUENTIAL, domainMin=0))
            .legend(title="tokens that chose both (share of all)", orient="bottom", format="~%", gradientLength=260),
            tooltip=[alt.Tooltip("layer:O"), alt.Tooltip("expert:O"), alt.Tooltip("other:O", title="other expert"),
                     alt.Tooltip("rate:Q", title="tokens that chose both", format=".2%"), *beyond],
        )
        .properties(width=alt.Step(side), height=alt.Step(side))
    )  # fmt: skip
    bars = base.mark_bar(color=CATEGORIES[0]).encode(
        x=alt.X("load:Q", title="load (share of the assignments)").axis(format="~%", tickCount=4),
        y=order,
        tooltip=[alt.Tooltip("layer:O"), alt.Tooltip("expert:O"), alt.Tooltip("load:Q", format=".2%"),
                 alt.Tooltip("alone:Q", title="tokens that chose it", format=".2%")],
    )  # fmt: skip
    even = alt.Chart(pd.DataFrame({"even": [1 / total]})).mark_rule(strokeDash=[4, 3]).encode(
        x="even:Q", tooltip=[alt.Tooltip("even:Q", title="even load", format=".2%")]
    )  # fmt: skip
    right = alt.layer(bars, even).properties(width=200, height=alt.Step(side))
    notes = [
        "Not drawn: an expert with itself. Dashed: an even load.",
        f"The {len(experts)} most loaded of {total} experts are shown." if len(experts) < total else "",
        f"{len(shown)} of {len(numbers)} sparse layers can be chosen." if len(shown) < len(numbers) else "",
    ]
    title = heading(f"Experts of {tree.attrs['model']} that work together", " ".join(filter(None, notes)))
    return alt.hconcat(left, right).add_params(picked).properties(title=title)
