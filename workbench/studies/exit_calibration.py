"""Whether exits know when they are right: what they are sure of, and how often it is so, on text a model writes.

Source
------
That thresholds over confidence let go those of whom the confidence is too high, and that gates trained with their
modules do so less: Regol et al., JEI-DNN, 2023, arXiv 2310.09163. Expected calibration error: Guo et al., 2017, arXiv
1706.04599.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from workbench import trace
from workbench.engine.decoder import Decoder
from workbench.engine.generate import generate
from workbench.errors import SettingError
from workbench.metrics.calibration import BINS, reliability
from workbench.models import Model
from workbench.parts.exits import Lens, load_lens
from workbench.parts.exits.joint import JointLens, load_joint
from workbench.trace import variable

READERS = ("logit lens", "tuned lens", "joint exits")
TARGETS = ("full model", "text")
"""Whose token a reader is to say: the full model's first one, or the one that comes next in the text."""
_CHUNK = 64  # rows of the vocabulary at once


def exit_calibration(
    model: Model,
    prompts: Sequence[str | Sequence[int]],
    lens: str = "bundled",
    joint: str = "bundled",
    threshold: float = 0.5,
    max_new_tokens: int = 64,
    temperature: float = 0.7,
    seed: int = 0,
    cancel: threading.Event | None = None,
) -> xr.DataTree | None:
    """Read the same text through the logit lens, a tuned lens and joint exits, at the layers where the last have exits.

    Parameters
    ----------
    model : Model
    prompts : sequence of str or token ids
        Answered by the model, at ``temperature``; what is read is the answers.
    lens, joint : str
        The tuned lens and the joint exits: ``bundled``, ``untrained``, or a file.
    threshold : float
        Chance above which a token leaves at a gate.
    max_new_tokens : int
    temperature : float
    seed : int
    cancel : threading.Event, optional
        Looked at before every answer.

    Returns
    -------
    xarray.DataTree
        None if it was cancelled. Group ``exit_calibration``, whose attributes ``readers``, ``places`` and ``targets``
        name the dimensions, as JSON. A place is an exit's layer, where all tokens are read; the last place, -1, is
        where each token leaves, and holds those that do: at the first open gate, or at the first layer of a lens whose
        highest probability is above a ``cutoff``, such that as many leave as by the gates.

        - ``tokens`` (reader, place), ``count`` and ``confidence`` (reader, place, bin): the highest probability, over
          all tokens, in ten bins;
        - ``share``, ``low``, ``high`` (reader, place, target, bin): of them right, with 95 % intervals; ``accuracy``
          and ``error``, the expected calibration error (reader, place, target);
        - ``cutoff`` and ``layers``, the mean that a token runs (reader).

    Raises
    ------
    SettingError
        If there is nothing to read, or no such lens or exits.

    Notes
    -----
    All tokens find the layers before them full, as in :class:`workbench.probes.ExitOracle`.
    """
    if not prompts or max_new_tokens < 2:
        raise SettingError("give a prompt to answer, and let the answer have two tokens")
    exits = load_joint(model, joint)
    lenses = [load_lens(model, "logit"), load_lens(model, lens), exits]
    parts = []
    for place, prompt in enumerate(prompts):
        if cancel is not None and cancel.is_set():
            return None
        ids = model.encode(prompt)
        asked = {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed + place}
        answer = [token for step in generate(model, ids, **asked) for token in step.tokens]
        parts.append(_read(model, ids, answer, lenses, exits))
    chances, said, gates, final, text = (torch.cat(each, -1).numpy() for each in zip(*parts))
    leaves = _leaves(chances, gates > threshold)
    data = _dataset(model, exits.layers, chances, said, (final, text), *leaves)
    ids = model.encode(prompts[0])
    recipe = {"prompts": len(prompts), "lens": lens, "joint": joint, "threshold": threshold, **asked, "seed": seed}
    groups = {"tokens": trace.tokens(ids), "exit_calibration": data}
    names = {"readers": READERS, "places": [*exits.layers, -1], "targets": TARGETS}
    return trace.build(groups, model=model, kind="observe", recipe=recipe, used=set(ids), seed=seed, **names)


@torch.inference_mode()
def _read(
    model: Model, ids: list[int], answer: list[int], lenses: Sequence[Lens], exits: JointLens
) -> tuple[Tensor, ...]:
    """Of an answer's tokens: highest probability and its token (reader, layer, token), chance to leave (layer, token),
    the last layer's token and the text's (token)."""
    seen: dict[int, Tensor] = {}
    wanted, count = {*exits.layers, exits.last}, len(answer)

    def watch(site: str, layer: int, value: Any) -> None:
        if site == "residual" and layer in wanted:
            seen[layer] = value[0, -count:].clone()

    Decoder(model, watch=watch).prefill([*ids, *answer[:-1]])
    shape = len(lenses), len(exits.layers), count
    chances, said = torch.empty(shape), torch.empty(shape, dtype=torch.long)
    gates = torch.empty(shape[1:])
    for place, layer in enumerate(exits.layers):
        frequent = exits.head(layer, exits.tokens)
        for start in range(0, count, _CHUNK):
            rows = slice(start, start + _CHUNK)
            x = seen[layer][rows]
            for reader, lens in enumerate(lenses):
                best = model.anatomy.unembed(lens.stream(x, layer)).float().softmax(-1).max(-1)
                chances[reader, place, rows], said[reader, place, rows] = best.values.cpu(), best.indices.cpu()
            gates[place, rows] = exits.leaves(layer, frequent(x)).cpu()
    final = torch.cat([model.anatomy.unembed(x).argmax(-1).cpu() for x in seen[exits.last].split(_CHUNK)])
    return chances, said, gates, final, torch.tensor(answer)


def _leaves(chances: np.ndarray, opened: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Place at which every token leaves (reader, token), the number of places if at none, and cut-offs (reader)."""
    places, tokens = opened.shape
    many = int(opened.any(0).sum())
    out, cutoffs = np.full((len(chances), tokens), places), np.full(len(chances), np.nan)
    for reader in range(len(chances)):
        met = opened
        if reader < len(chances) - 1:
            surest = np.sort(chances[reader].max(0))[::-1]
            cutoffs[reader] = surest[many] if many < tokens else 0.0
            met = chances[reader] > cutoffs[reader]
        out[reader] = np.where(met.any(0), met.argmax(0), places)
    return out, cutoffs


def _dataset(
    model: Model, layers: Sequence[int], chances: np.ndarray, said: np.ndarray, due: Sequence[np.ndarray],
    leaves: np.ndarray, cutoffs: np.ndarray,
) -> xr.Dataset:  # fmt: skip
    readers, places, tokens = chances.shape
    values: dict[str, Any] = {name: np.zeros((readers, places + 1, BINS)) for name in ("count", "confidence")}
    values |= {name: np.zeros((readers, places + 1, len(due), BINS)) for name in ("share", "low", "high")}
    values |= {name: np.zeros((readers, places + 1, len(due))) for name in ("accuracy", "error")}
    for reader in range(readers):
        left = np.flatnonzero(leaves[reader] < places)
        picks = [(np.full(tokens, place), np.arange(tokens)) for place in range(places)]
        for place, pick in enumerate([*picks, (leaves[reader][left], left)]):
            for target, wanted in enumerate(due):
                right = said[reader][pick] == wanted[pick[1]]
                found, at = reliability(chances[reader][pick], right), (reader, place, target)
                values["count"][at[:2]], values["confidence"][at[:2]] = found.count, found.confidence
                for name in ("share", "low", "high", "error"):
                    values[name][at] = getattr(found, name)
                values["accuracy"][at] = right.mean() if len(right) else np.nan
    said_of = {
        "confidence": ("reader place bin", "probability", "mean of the highest probability"),
        "share": ("reader place target bin", "1", "share that was right"),
        "low": ("reader place target bin", "1", "lower end of its 95 % interval"),
        "high": ("reader place target bin", "1", "upper end of its 95 % interval"),
        "accuracy": ("reader place target", "1", "share of all that was right"),
        "error": ("reader place target", "1", "expected calibration error"),
    }
    data = {name: variable(dims, values[name], units, text) for name, (dims, units, text) in said_of.items()}
    counts = values["count"].astype(np.int64)
    data["count"] = variable("reader place bin", counts, "tokens", "tokens in the bin")
    data["tokens"] = variable("reader place", counts.sum(-1), "tokens", "tokens")
    data["cutoff"] = variable("reader", cutoffs, "probability", "highest probability above which a token leaves")
    depth = np.array([*(layer + 1 for layer in layers), model.layers])[leaves].mean(1)
    data["layers"] = variable("reader", depth, "layers", "layers that a token runs, mean")
    sizes = {"reader": readers, "place": places + 1, "target": len(due), "bin": BINS}
    return xr.Dataset(data, {name: variable(name, np.arange(size), "1", name) for name, size in sizes.items()})
