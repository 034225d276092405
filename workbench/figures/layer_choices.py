"""Which layers were skipped, run or run more than once, by prompt and along a text."""

from __future__ import annotations

import altair as alt
import numpy as np
import xarray as xr

from workbench.errors import TraceError
from workbench.figures._figure import ROWS, figure
from workbench.figures._parts import cell, heat_map, sparse_axis
from workbench.figures._reduce import frame, spread
from workbench.figures._runs import group, index_of, labels
from workbench.figures._text import Texts, heading, shorten
from workbench.figures._theme import CATEGORIES

SAID = ("skipped", "run", "run more than once")
_COLOURS = (CATEGORIES[6], CATEGORIES[0], CATEGORIES[1])


def _chosen(tree: xr.DataTree, run: int) -> bool:
    passes = group(tree, "layers")["passes"].isel(run=run).values
    return bool(((passes >= 0) & (passes != 1)).any())


@figure("layers/passes", "text/id", "text/step", each_run=True, shows=_chosen)
def layer_choices(
    tree: xr.DataTree, *, run: int | str | None = None, prompt: int = 0, last: int = 60
) -> alt.TopLevelMixin:
    """How often every layer ran, as a mean over each prompt's steps, and step by step for one of them.

    Parameters
    ----------
    tree : DataTree or Study
        Of a study, or of a run on one prompt: of any technique that decides how deep the model runs.
    run : int or str, optional
        Number or name; the last run if left out.
    prompt : int
        Whose text is shown token by token.
    last : int
        How many of its tokens, counted from its end.

    Raises
    ------
    TraceError
        If there is no such run or prompt, or nothing was written.
    """
    number = index_of(tree, run)
    passes = group(tree, "layers")["passes"].isel(run=number).transpose("prompt", "step", "layer")
    text = group(tree, "text").isel(run=number)
    if not 0 <= prompt < passes.sizes["prompt"]:
        raise TraceError(f"there is no prompt {prompt}; the study has {passes.sizes['prompt']}")
    text = text.isel(prompt=prompt)
    written = int((text["id"] >= 0).sum())
    if not written:
        raise TraceError(f"run {labels(tree)[number]!r} made no tokens for prompt {prompt}")
    layers = spread(passes.sizes["layer"], 120)
    kept = min(written, max(1, last), ROWS // 2 // len(layers))
    title = heading(
        f"Which layers ran: {labels(tree)[number]}",
        "Above, passes through a layer in a step, as a mean over the steps of a prompt's answer; a step that reads or "
        "verifies in several forwards has more.",
        f"Below, the steps that made the last {kept} of {written} tokens of prompt {prompt} are shown."
        if kept < written
        else f"Below, the steps that made the tokens of prompt {prompt}.",
        f"{len(layers)} of {passes.sizes['layer']} layers are shown." if len(layers) < passes.sizes["layer"] else "",
    )
    below = _by_token(tree, passes.isel(prompt=prompt), text.isel(token=slice(written - kept, written)), layers)
    return alt.vconcat(_by_prompt(passes, layers), below).resolve_scale(color="independent").properties(title=title)


def _by_prompt(passes: xr.DataArray, layers: np.ndarray) -> alt.Chart:
    """Mean passes of a step that decodes; of the prefill where there is no other."""
    prompts = spread(passes.sizes["prompt"], ROWS // 2 // len(layers))
    known = passes.isel(prompt=prompts, layer=layers).where(lambda values: values >= 0)
    decoded = known.isel(step=slice(1, None))
    mean = known.isel(step=0).where(~decoded.notnull().any("step"), decoded.mean("step"))
    table = frame(
        {
            "prompt": np.repeat(prompts, len(layers)),
            "layer": np.tile(layers, len(prompts)),
            "passes": mean.transpose("prompt", "layer").values,
        }
    )
    hover = [alt.Tooltip("prompt:O"), alt.Tooltip("layer:O"),
             alt.Tooltip("passes:Q", title="passes in a step", format=".3~g")]  # fmt: skip
    side = cell(len(prompts), 640, 4, 26), cell(len(layers), 330, 3, 12)
    top = max(2.0, float(table["passes"].max()))
    return heat_map(table, ("prompt", "prompt"), ("layer", "layer"), ("passes", "passes in a step"), hover,
                    side=side, domain=(0.0, top))  # fmt: skip


def _by_token(tree: xr.DataTree, passes: xr.DataArray, text: xr.Dataset, layers: np.ndarray) -> alt.Chart:
    places, names = text["token"].values, Texts(tree).named(text)
    shown = np.array([f"{place} {shorten(name, 14)}" for place, name in zip(places, names)], dtype=object)
    values = passes.isel(layer=layers).isel(step=xr.DataArray(text["step"].values, dims="token"))
    values = values.transpose("token", "layer").values
    table = frame(
        {
            "token": np.repeat(shown, len(layers)),
            "layer": np.tile(layers, len(places)),
            "passes": values,
            "said": np.array(SAID, dtype=object)[values.clip(0, 2)],
        }
    )
    return (
        alt.Chart(table)
        .mark_rect(stroke=None)
        .encode(
            x=alt.X("token:N", sort=None, title="token of the answer, with its place in it").axis(
                labelAngle=-90, labelLimit=110, labelOverlap=True, ticks=False, domain=False
            ),
            y=alt.Y("layer:O", sort="descending", title="layer", axis=sparse_axis(layers)),
            color=alt.Color("said:N", title="in the token's step").scale(domain=list(SAID), range=list(_COLOURS)),
            tooltip=[alt.Tooltip("token:N"), alt.Tooltip("layer:O"), alt.Tooltip("said:N", title="the layer was"),
                     alt.Tooltip("passes:Q", title="passes")],
        )
        .properties(width=alt.Step(cell(len(places), 640, 4, 26)), height=alt.Step(cell(len(layers), 330, 3, 12)))
    )  # fmt: skip
