"""Which layers of two models say the same up to a linear map, and whether they stand at the same relative depth.

Paper
-----
Csordas, Manning, Potts, Do Language Models Use Their Depth Efficiently?, 2025, arXiv 2505.13898, section 6: if a deeper
model computed new things, its later layers could not be had from a shallower one; the best fits lie on the diagonal.

Formula
-------
Of states X of a layer and Y of a layer of the other model, at the same tokens, each of unit size, on held-out texts::

    error = |Y - X W - b|^2 / |Y - mean(Y)|^2          W, b of ridge regression on the other texts

Deviates
--------
The paper trains its maps by gradient on millions of tokens; here they are solved for, exactly, on some thousands, with
a ridge that keeps them from learning the texts by heart. The first token of a text, on which many models park a vector
hundreds of times longer than others, is left out.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from torch.nn import functional as F

from workbench import trace
from workbench.engine.decoder import Decoder
from workbench.errors import SettingError
from workbench.models import Model
from workbench.trace import variable

_LEAST = 16  # tokens to fit to, and to judge by


def layer_maps(
    model: Model,
    other: Model,
    prompts: Sequence[str | Sequence[int]],
    held_out: float = 0.25,
    ridge: float = 0.1,
    cancel: threading.Event | None = None,
) -> xr.DataTree | None:
    """Fit a linear map from every layer of a model to every layer of another, and judge it on other texts.

    Parameters
    ----------
    model, other : Model
        From whose layers, and to whose. They read the same token ids.
    prompts : sequence of str or token ids
        Texts; several hundred tokens more than the streams are wide make the fits mean something.
    held_out : float
        Share of the texts, the last ones, that the maps are judged on.
    ridge : float
        Over the mean square of the states' directions.
    cancel : threading.Event, optional
        Looked at before every text and every layer.

    Returns
    -------
    xarray.DataTree
        None if it was cancelled. Group ``layer_maps``: ``error`` (layer, other_layer), and for every layer of the other
        model the layer that fits best, ``best_layer`` (other_layer), its relative depth, ``best_depth``, and that of
        the other's own, ``own_depth``; layer -1 is the embedding.

    Raises
    ------
    SettingError
        If the two models do not read the same tokens, or there is too little text.
    """
    _check(model, other, held_out, len(prompts))
    ids = [model.encode(prompt) for prompt in prompts]
    count = len(ids) - max(1, round(held_out * len(ids)))
    parts = ids[:count], ids[count:]
    for texts, what in zip(parts, ("fitted to", "judged by")):
        if sum(map(len, texts)) - len(texts) < _LEAST:
            raise SettingError(f"too little text to be {what}: give more prompts, or longer ones")
    states = []
    for each in (model, other):
        for texts in parts:
            found = _states(each, texts, cancel)
            if found is None:
                return None
            states.append(found.to(model.device))
    learned, judged, other_learned, other_judged = states
    error = np.zeros((len(learned), len(other_learned)))
    for layer, (x, seen) in enumerate(zip(learned, judged)):
        if cancel is not None and cancel.is_set():
            return None
        error[layer] = _errors(x, seen, other_learned, other_judged, ridge)
    groups = {"tokens": trace.tokens(ids[0]), "layer_maps": _dataset(error, other.name)}
    recipe = {"from": model.name, "to": other.name, "texts": len(ids), "held_out": len(ids) - count, "ridge": ridge}
    return trace.build(groups, model=model, kind="observe", recipe=recipe, used=set(ids[0]))


def _check(model: Model, other: Model, held_out: float, texts: int) -> None:
    if model.anatomy.vocabulary != other.anatomy.vocabulary:
        raise SettingError(
            f"{model.name} has {model.anatomy.vocabulary:,} tokens and {other.name} {other.anatomy.vocabulary:,}: maps "
            "are fitted between models that read the same tokens"
        )
    same = model.tokenizer is other.tokenizer or model.decode(range(256)) == other.decode(range(256))
    if not same:
        raise SettingError(f"{model.name} and {other.name} have different tokens: take two models of one family")
    if not 0 < held_out < 1 or texts < 2:
        raise SettingError("give at least two texts, and a share of them that is held out, between 0 and 1")


def _states(model: Model, texts: Sequence[list[int]], cancel: threading.Event | None) -> Tensor | None:
    """States [layers + 1, tokens, width] at all tokens but the first of each text, each of unit size."""
    rows: list[list[Tensor]] = [[] for _ in range(model.layers + 1)]

    def watch(site: str, layer: int, value: Any) -> None:
        if site in ("embedding", "residual"):
            rows[layer + 1].append(F.rms_norm(value[0, 1:].float(), value.shape[-1:]))

    for text in texts:
        if cancel is not None and cancel.is_set():
            return None
        Decoder(model, watch=watch).prefill(text, logits="none")
    return torch.stack([torch.cat(each) for each in rows])


def _errors(x: Tensor, seen: Tensor, others: Tensor, judged: Tensor, ridge: float) -> np.ndarray:
    """Unexplained share [other layers] of the held-out states of every layer of the other model."""
    mean, other_mean = x.mean(0), others.mean(1, keepdim=True)
    x, y = x - mean, others - other_mean
    gram = (x.T @ x).double()
    gram.diagonal().add_(ridge * gram.diagonal().mean().clamp_min(1e-12))
    factor = torch.linalg.cholesky(gram)
    found = []
    for layer in range(len(others)):
        weight = torch.cholesky_solve((x.T @ y[layer]).double(), factor).float()
        left = judged[layer] - other_mean[layer] - (seen - mean) @ weight
        around = judged[layer] - judged[layer].mean(0)
        found.append(float(left.square().sum() / around.square().sum().clamp_min(1e-12)))
    return np.array(found)


def _dataset(error: np.ndarray, other: str) -> xr.Dataset:
    layers, others = (np.arange(-1, size - 1) for size in error.shape)
    best = error.argmin(0)
    depth = [(places + 1) / max(len(places) - 1, 1) for places in (layers, others)]
    data = {
        "error": variable("layer other_layer", error, "1", "share of the other model's state left unexplained"),
        "best_layer": variable("other_layer", layers[best], "layer", "layer that fits best"),
        "best_depth": variable("other_layer", depth[0][best], "1", "relative depth of the layer that fits best"),
        "own_depth": variable("other_layer", depth[1], "1", "relative depth"),
    }
    coordinates = {
        "layer": variable("layer", layers, "layer", "layer"),
        "other_layer": variable("other_layer", others, "layer", f"layer of {other}"),
    }
    return xr.Dataset(data, coordinates, {"other": other})
