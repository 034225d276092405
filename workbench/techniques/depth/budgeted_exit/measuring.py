"""How sure exits are of the tokens of a calibration text, measured once for each model and kept in the user's cache."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from workbench.engine import Decoder, generate
from workbench.errors import SettingError
from workbench.files import write_atomically
from workbench.models import Model
from workbench.models.bundled import cache_folder
from workbench.models.fingerprint import of_model
from workbench.parts.calibration import calibration_prompts, calibration_texts, told
from workbench.parts.exits import Lens
from workbench.parts.exits.confidence import confidence

Criterion = Literal["probability", "margin", "entropy", "consistency"]

_LONGEST = 512  # tokens of a prompt that is answered


@dataclass(frozen=True)
class Measured:
    """What the exits make of some tokens.

    Attributes
    ----------
    values : Tensor [layers, tokens], float64
        Confidence after each layer that was looked at.
    places : int Tensor [tokens]
        Of how many tokens each was the last.
    """

    values: Tensor
    places: Tensor


def sureness(criterion: Criterion, logits: Tensor, before: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Confidence [rows] of logits [rows, tokens], and what the next exit compares itself with.

    Parameters
    ----------
    criterion : {"probability", "margin", "entropy", "consistency"}
        The last is 1 less the total variation distance from the distributions of the exit before.
    logits : Tensor [rows, tokens]
    before : Tensor [rows, tokens] or None
        What this function gave for the exit before. Without it nothing is consistent.
    """
    if criterion != "consistency":
        return confidence(criterion, logits), None
    chances = logits.float().softmax(-1)
    if before is None:
        return torch.full((len(logits),), -math.inf, device=logits.device), chances
    return 1 - (chances - before).abs().sum(-1) / 2, chances


def measure(
    model: Model,
    lens: Lens,
    layers: Sequence[int],
    criterion: Criterion,
    vocabulary: int,
    texts: int,
    answer: int,
    text: str = "",
) -> Measured:
    """Confidences after some layers on calibration text.

    Parameters
    ----------
    model : Model
    lens : Lens
    layers : sequence of int
    criterion : {"probability", "margin", "entropy", "consistency"}
    vocabulary : int
        Most frequent tokens that an exit looks at; 0 for all.
    texts : int
        How many.
    answer : int
        Tokens that the model itself writes after each of the project's prompts to train on, at which it is measured.
    text : str
        A file in the place of these; it is measured at all of its tokens.

    Raises
    ------
    SettingError
        If there is no such text, or no token to measure at.
    """
    tick = told(texts * (1 if text else 2), "budgeted_exit", "texts")
    rows: list[Tensor] = []
    places: list[Tensor] = []
    for ids, first in _texts(model, texts, answer, text, tick):
        streams: dict[int, Tensor] = {}
        Decoder(model, watch=_keep(streams, set(layers), first)).prefill(ids, logits="none")
        rows.append(_confidences(lens, streams, layers, criterion, vocabulary))
        places.append(torch.arange(first, len(ids)) + 1)
        tick()
    if not rows:
        raise SettingError(f"{model.name} answered no calibration prompt with two tokens: name a text= to calibrate on")
    return Measured(torch.cat(rows, 1), torch.cat(places))


def _texts(model: Model, texts: int, answer: int, text: str, tick: Any) -> list[tuple[list[int], int]]:
    """Token ids, and from which on they are measured. The last token of an answer is one that nothing is run for."""
    if text:
        return [(ids, 0) for ids in calibration_texts(model, texts, text)]
    found = []
    for prompt in calibration_prompts(model, texts, min(_LONGEST, model.anatomy.positions - answer)):
        said = [token for step in generate(model, prompt, max_new_tokens=answer) for token in step.tokens]
        if len(said) > 1:
            found.append(([*prompt, *said[:-1]], len(prompt)))
        tick()
    return found


def _keep(streams: dict[int, Tensor], layers: set[int], first: int) -> Any:
    def watch(site: str, layer: int, value: Any) -> None:
        if site == "residual" and layer in layers:
            streams[layer] = value[0, first:]

    return watch


@torch.inference_mode()
def _confidences(
    lens: Lens, streams: dict[int, Tensor], layers: Sequence[int], criterion: Criterion, vocabulary: int
) -> Tensor:
    found, before = [], None
    for layer in layers:
        value, before = sureness(criterion, lens.head(layer, vocabulary)(streams[layer]), before)
        found.append(value.double().cpu())
    return torch.stack(found)


class Kept:
    """Where measurements are kept in the user's cache folder, named after all that they follow from.

    Parameters
    ----------
    model : Model
    layers : sequence of int
    wanted : JSON-able
    """

    def __init__(self, model: Model, layers: Sequence[int], wanted: Any) -> None:
        key = hashlib.sha256(json.dumps([of_model(model), str(model.dtype), list(layers), wanted]).encode()).hexdigest()
        # A model without a tokenizer was made in memory.
        self._path: Path | None = cache_folder() / "budgeted_exit" / f"{key}.json" if model.tokenizer else None
        self._layers = len(layers)

    def read(self) -> Measured | None:
        """What was kept; None where there is nothing, or it is damaged."""
        if self._path is None or not self._path.is_file():
            return None
        try:
            found = json.loads(self._path.read_text("utf-8"))
            # JSON has no infinite numbers: what compares itself with nothing is null.
            values = [[-math.inf if each is None else float(each) for each in row] for row in found["values"]]
            kept = Measured(torch.tensor(values, dtype=torch.float64), torch.tensor(found["places"]))
        except (ValueError, TypeError, KeyError):
            return None
        fits = kept.places.dim() == 1 and kept.values.shape == (self._layers, len(kept.places)) and len(kept.places)
        return kept if fits else None

    def write(self, found: Measured) -> Measured:
        if self._path is not None:
            rows = [[each if math.isfinite(each) else None for each in row] for row in found.values.tolist()]
            write_atomically(self._path, json.dumps({"values": rows, "places": found.places.tolist()}) + "\n")
        return found
