"""Text that layers are judged on, and what they do to it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from importlib.resources import files
from itertools import islice, zip_longest
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from workbench.engine import Decoder
from workbench.errors import SettingError
from workbench.files import at_home, is_there
from workbench.models import Model

LENGTH = 128
"""Most tokens of a text."""


class Unit(NamedTuple):
    """What can be removed: ``part`` is ``block``, ``attention`` or ``mlp``."""

    layer: int
    part: str

    def __str__(self) -> str:
        return f"{self.part} {self.layer}"


def units(model: Model, kind: str) -> list[Unit]:
    """What there is to be removed of ``kind``: ``block``, ``attention``, ``mlp``, or ``sublayer`` for the last two."""
    parts = ("attention", "mlp") if kind == "sublayer" else (kind,)
    return [Unit(layer, part) for layer in range(model.layers) for part in parts]


def calibration_texts(model: Model, count: int, source: str = "") -> list[list[int]]:
    """Token ids of ``count`` texts of at most :data:`LENGTH` tokens.

    Parameters
    ----------
    model : Model
    count : int
    source : str
        Path of a text in UTF-8, of which the first pieces are taken. By default the project's prompts to train on, one
        task after the other in turn, which are none of those that anything is compared on. A model without a tokenizer
        gets tokens drawn with a fixed seed.

    Raises
    ------
    SettingError
        If there is no such text, or no piece of it is two tokens long.
    """
    length = min(LENGTH, model.anatomy.positions)
    if model.tokenizer is None:
        drawn = torch.randint(
            model.anatomy.vocabulary, (count, length // 2), generator=torch.Generator().manual_seed(0)
        )
        return drawn.tolist()
    if not source:
        return [model.tokenizer(text)["input_ids"][:length] for text in islice(_prompts(), count)]
    path = at_home(source)
    if not (is_there(path) and path.is_file()):
        raise SettingError(f"there is no text {source!r:.80}: name a file in UTF-8")
    try:
        tokens = model.tokenizer(path.read_text("utf-8"))["input_ids"]
    except (UnicodeDecodeError, OSError) as error:
        raise SettingError(f"{path.name} cannot be read as a text in UTF-8: name another file") from error
    pieces = [tokens[place : place + length] for place in range(0, len(tokens), length)]
    found = [piece for piece in pieces if len(piece) > 1][:count]
    if not found:
        raise SettingError(f"{path.name} has no two tokens to judge layers on: name a longer text")
    return found


def _prompts() -> Iterator[str]:
    """The prompts to train on, a line each, of all tasks in turn."""
    folder = files("workbench_data").joinpath("prompts", "training")
    tasks = sorted((each for each in folder.iterdir() if each.name.endswith(".jsonl")), key=lambda each: each.name)
    for turn in zip_longest(*(each.read_text("utf-8").splitlines() for each in tasks)):
        yield from (json.loads(line)["prompt"] for line in turn if line)


def influences(model: Model, texts: Sequence[Sequence[int]], kind: str) -> dict[Unit, float]:
    """For each unit the mean over all tokens of 1 - cos(stream before it, stream after it)."""
    sums: dict[Unit, float] = {unit: 0.0 for unit in units(model, kind)}
    before: dict[str, Tensor] = {}
    blocks = model.anatomy.blocks

    def note(unit: Unit, one: Tensor, other: Tensor) -> None:
        if unit in sums:
            sums[unit] += float((1 - _cosine(one, other)).sum())

    def watch(site: str, layer: int, value: Tensor) -> None:
        if site in ("embedding", "residual"):
            if layer >= 0:
                note(Unit(layer, "block"), before["stream"], value)
            before["stream"] = before["middle"] = value
        elif site == "attention_output":
            note(Unit(layer, "attention"), before["stream"], before["stream"] + value)
            if not blocks[layer].parallel:
                before["middle"] = before["stream"] + value
        elif site == "mlp_output":
            note(Unit(layer, "mlp"), before["middle"], before["middle"] + value)

    for text in texts:
        Decoder(model, watch=watch).prefill(text, logits="none")
    tokens = sum(map(len, texts))
    return {unit: total / tokens for unit, total in sums.items()}


def angles(model: Model, texts: Sequence[Sequence[int]], count: int) -> list[float]:
    """For each layer the mean over texts of the angle, in half turns, between the last token's streams before it and
    ``count`` blocks later."""
    rows: list[Tensor] = []

    def watch(site: str, layer: int, value: Tensor) -> None:
        if site in ("embedding", "residual"):
            rows.append(value[0, -1])

    for text in texts:
        Decoder(model, watch=watch).prefill(text, logits="none")
    streams = torch.stack(rows).unflatten(0, (len(texts), model.layers + 1))
    cosine = _cosine(streams[:, :-count], streams[:, count:]).clamp(-1, 1)
    return (cosine.acos() / torch.pi).mean(0).tolist()


def _cosine(one: Tensor, other: Tensor) -> Tensor:
    return F.cosine_similarity(one.double(), other.double(), dim=-1)
