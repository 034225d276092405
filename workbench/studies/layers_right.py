"""At which layers the next token of real text is right, how much of it no layer gets right, and who can tell.

Paper
-----
Sun, Du, Song, Li, When Neural Code Completion Models Size up the Situation: Attaining Cheaper and Faster Completion
through Dynamic Model Inference, 2024, arXiv 2401.09964, section 2: of GPT-2 on functions of Python the first layer
gets 54.4 % of the tokens right, and no layer gets 14.5 % right.

Deviates
--------
What a layer says is what a lens reads there; the paper trained a head for every layer on code, and the model too.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from workbench import trace
from workbench.engine.decoder import Decoder
from workbench.errors import SettingError
from workbench.metrics import mean_interval
from workbench.models import Model
from workbench.parts.exit_controller import EXIT, STOP, classes_of, load_controller, right_at
from workbench.parts.exits import load_lens
from workbench.tasks import Prompt
from workbench.trace import variable

_PREDICTED = {"exit": (EXIT, "right already"), "stop": (STOP, "never right")}


def layers_right(
    model: Model,
    texts: Iterable[str | list[int] | Prompt],
    lens: str = "bundled",
    controller: str = "",
    opening: int = 8,
    cancel: threading.Event | None = None,
) -> xr.DataTree | None:
    """Read texts as they stand, and look at every layer whether it names the true next token.

    Parameters
    ----------
    model : Model
    texts : iterable of str, token ids or Prompt
        Of a prompt with a reference, both: :func:`workbench.tasks.held_out_functions` are functions of Python.
    lens : str
        What reads the layers: ``bundled``, the tuned lens, ``logit``, ``untrained``, or a file.
    controller : str
        The classifier of :class:`workbench.techniques.CompletionStop` that is to be judged: ``bundled``, a file, or
        empty for none.
    opening : int
        Tokens of a text that are read before any is foreseen.
    cancel : threading.Event, optional
        Looked at before every text.

    Returns
    -------
    xarray.DataTree
        None if it was cancelled. Group ``layers_right``, with 95 % intervals over texts as ``…_low`` and ``…_high``:
        over ``layer`` the share of tokens that are ``right`` there, and right there or before, ``so_far``; ``never``,
        the share that no layer gets right; and with a controller what its likeliest class is worth at each layer but
        the last, ``exit_precision``, ``exit_recall``, ``stop_precision`` and ``stop_recall``. Attributes ``texts`` and
        ``tokens`` say how many.

    Raises
    ------
    SettingError
        If there is no text that is long enough; or no such lens or controller.
    """
    ids = [_ids(model, text) for text in texts]
    ids = [each for each in ids if len(each) > opening + 1]
    if not ids:
        raise SettingError(f"no text has more than {opening + 1} tokens: give longer ones, or a smaller opening")
    read, judge = load_lens(model, lens), load_controller(model, controller) if controller else None
    counts: list[dict[str, Any]] = []
    for text in ids:
        if cancel is not None and cancel.is_set():
            return None
        after, due = _streams(model, text, opening), torch.tensor(text[opening + 1 :], device=model.device)
        with torch.inference_mode():
            right = torch.stack([right_at(read, layer, x, due) for layer, x in enumerate(after)])
            counts.append(_counted(right, after, None if judge is None else judge.chances))
    groups = {"tokens": trace.tokens(ids[0]), "layers_right": _dataset(counts)}
    recipe = {"texts": len(ids), "lens": lens, "controller": controller, "opening": opening}
    return trace.build(groups, model=model, kind="observe", recipe=recipe, used=set(ids[0]))


def _ids(model: Model, text: Any) -> list[int]:
    return model.encode(text.prompt + (text.reference or "") if isinstance(text, Prompt) else text)


def _streams(model: Model, text: list[int], opening: int) -> list[Tensor]:
    """Residual streams [places, width] after every layer, at the places from ``opening`` on that a token follows."""
    found: list[Tensor] = []

    def watch(site: str, layer: int, value: Any) -> None:
        if site == "residual":
            found.append(value[0, opening:-1])

    Decoder(model, watch=watch).prefill(text, logits="none")
    return found


def _counted(right: Tensor, after: list[Tensor], judge: Callable[[int, Tensor], Tensor] | None) -> dict[str, Any]:
    """Of one text how many tokens there are of each kind, by layer."""
    layers = len(right)
    label = classes_of(torch.where(right.any(0), right.int().argmax(0), layers), layers)
    found = {"tokens": right.shape[1], "right": right.sum(1), "so_far": right.cummax(0).values.sum(1)}
    found["never"] = (label[0] == STOP).sum()
    if judge is not None:
        said = torch.stack([judge(layer, x).argmax(-1) for layer, x in enumerate(after[:-1])])
        for name, (kind, _) in _PREDICTED.items():
            found[f"{name}_said"], found[f"{name}_due"] = (said == kind).sum(1), (label == kind).sum(1)
            found[f"{name}_hits"] = ((said == kind) & (label == kind)).sum(1)
    return {name: np.asarray(value.cpu() if isinstance(value, Tensor) else value) for name, value in found.items()}


def _dataset(counts: list[dict[str, Any]]) -> xr.Dataset:
    sums = {name: np.array([each[name] for each in counts]) for name in counts[0]}
    layers, tokens, data = sums["right"].shape[1], sums["tokens"], {}

    def add(name: str, dims: str, parts: np.ndarray, wholes: np.ndarray, long_name: str) -> None:
        if dims:
            found = np.array([mean_interval(*each, 0, 1) for each in zip(parts.T, wholes.T)]).T
        else:
            found = np.array(mean_interval(parts, wholes, 0, 1))
        for end, values in zip(("", "_low", "_high"), found):
            data[name + end] = variable(dims, values, "1", f"share of tokens {long_name}{end.replace('_', ', ')}")

    every = np.repeat(tokens[:, None], layers, 1)
    add("right", "layer", sums["right"], every, "that the layer gets right")
    add("so_far", "layer", sums["so_far"], every, "that it or one before it gets right")
    add("never", "", sums["never"], tokens, "that no layer gets right")
    for name, (_, what) in _PREDICTED.items():
        if f"{name}_said" in sums:
            hits = sums[f"{name}_hits"]
            add(f"{name}_precision", "asked", hits, sums[f"{name}_said"], f"said to be {what} that are")
            add(f"{name}_recall", "asked", hits, sums[f"{name}_due"], f"{what} that are said to be")
    places = {"layer": variable("layer", np.arange(layers), "layer", "layer")}
    if "exit_said" in sums:
        places["asked"] = variable("asked", np.arange(layers - 1), "layer", "layer")
    return xr.Dataset(data, places, {"texts": len(counts), "tokens": int(tokens.sum())})
