"""What layers do to the residual stream of some texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from workbench.engine import Decoder
from workbench.models import Model


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
