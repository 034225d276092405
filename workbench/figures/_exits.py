"""Where each step of a run left the model, from the passes of its layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from workbench.errors import TraceError
from workbench.figures._reduce import frame
from workbench.figures._runs import each_token, group, labels
from workbench.figures._text import Texts, shorten


def exit_layers(tree: xr.DataTree) -> np.ndarray:
    """The block after which every step left (run, prompt, step), -1 where no step was, the last where it left at none.

    It is the last of which all layers so far ran more often than any later one: of a draft made by the first layers
    they ran for every token of it, and the others once; of a token that left they ran, and the others did not. Layers
    that are skipped or run twice in the middle are no exit.
    """
    passes = group(tree, "layers")["passes"].transpose("run", "prompt", "step", "layer").values
    least = np.minimum.accumulate(passes, -1)[..., :-1]
    later = np.maximum.accumulate(passes[..., ::-1], -1)[..., ::-1][..., 1:]
    left, last = least > later, passes.shape[-1] - 1
    found = np.where(left.any(-1), last - 1 - left[..., ::-1].argmax(-1), last)
    return np.where(passes.max(-1) > 0, found, -1)


def exit_steps(tree: xr.DataTree, run: int, prompt: int) -> pd.DataFrame:
    """A row for every decode step of one answer.

    Returns
    -------
    DataFrame
        ``step``; ``exit``, the block it left after; ``tokens``, ``drafted`` and
        ``accepted``; ``ms`` of a token and ``step_ms``; ``said``, what it wrote.

    Raises
    ------
    TraceError
        If there is no such prompt, or no token of it was decoded.
    """
    steps, text = group(tree, "steps"), group(tree, "text")
    if not 0 <= prompt < steps.sizes["prompt"]:
        raise TraceError(f"there is no prompt {prompt}; the study has {steps.sizes['prompt']}")
    exits = exit_layers(tree)[run, prompt]
    at, said = steps.isel(run=run, prompt=prompt), text.isel(run=run, prompt=prompt)
    there = np.flatnonzero((at["tokens"].values > 0) & (exits >= 0))
    there = there[there > 0]
    if not len(there):
        raise TraceError(f"run {labels(tree)[run]!r} decoded no token of prompt {prompt}")
    words, made = Texts(tree).added(said), said["step"].values
    written: dict[int, str] = {}
    for word, step in zip(words, made):
        written[int(step)] = written.get(int(step), "") + word
    columns: dict[str, Any] = {name: at[name].values[there] for name in ("tokens", "drafted", "accepted")}
    columns |= {"step": there, "exit": exits[there], "ms": 1e3 * each_token(at, "seconds").values[there]}
    columns |= {"step_ms": 1e3 * at["seconds"].values[there]}
    columns["said"] = np.array([shorten(written.get(int(step), ""), 40) for step in there], dtype=object)
    return frame(columns)
