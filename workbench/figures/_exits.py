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
    """The block after which every step left (run, prompt, step), -1 where no step was.

    It is the last of those that ran most often in the step: of a draft made by the first layers they ran for every
    token of it, and the others once; of a token that left they ran, and the others did not.
    """
    passes = group(tree, "layers")["passes"].transpose("run", "prompt", "step", "layer").values
    most = passes.max(-1)
    last = passes.shape[-1] - 1 - (passes == most[..., None])[..., ::-1].argmax(-1)
    return np.where(most > 0, last, -1)


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
