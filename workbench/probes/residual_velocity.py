"""How fast, and in which direction, the residual stream of each token moves from block to block.

Paper
-----
Bhendawade et al., M2R2: Mixture of Multi-Rate Residuals for Efficient Transformer Inference, 2025, arXiv 2502.02040.

Formula
-------
Of the stream h after block l and H after the last one::

    speed = |h[l] - h[l-1]| / |h[l-1]|                 how far a block moves the stream, relative to its length
    turn = arccos(cosine(h[l], h[l-1])) / pi           by which angle of that it turns
    heading = cosine(h[l] - h[l-1], H - h[l-1])        whether the move is towards where the stream ends
    arrival = cosine(h[l], H)                          how nearly it points there already
    accelerated = cosine(p[l], H)                      and how nearly a stream p that runs ahead of it does

Deviates
--------
The paper speaks of the velocity of the residual, and trains a second stream until earlier layers agree with the last:
here the model's own stream is measured, and that one beside it where ``accelerators`` names what moves it on
(:mod:`workbench.parts.exits.accelerated`). The paper's formulas were not at hand: ``speed``, ``turn`` and ``arrival``
are ours after its abstract, and so is ``heading``, as a stream may move fast and sideways. Positions of one text are
sampled, evenly spaced.
"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
import torch
import xarray as xr
from pydantic import Field
from torch import Tensor

from workbench.models import Model
from workbench.parts.exits import AcceleratedLens, load_accelerated
from workbench.probes._probe import Probe, Reader, axis, over, register, sample
from workbench.settings import outside, settings
from workbench.trace import variable


@register
@settings
class ResidualVelocity(Probe):
    """Speed and direction of the residual stream, for every block and sampled position.

    Parameters
    ----------
    positions : int or None
        Evenly spaced positions that are followed; None takes all.
    accelerators : str
        Of a second stream: ``bundled``, ``untrained`` or a file; nothing for none.

    Notes
    -----
    Keeps [layers + 1, positions, width] in float32, as the end of the stream is known last. Writes ``speed``, ``turn``,
    ``heading`` (block, position) and ``arrival`` (layer, position), where layer -1 is the embedding. Where a block
    moves nothing, ``heading`` is 0, and where there is nothing to move, ``speed`` is. With accelerators there is
    ``accelerated`` (layer, position) too: up to the first of them, and after the last layer, it is the model's own.
    """

    positions: Annotated[int, Field(ge=1, description="sampled positions; all if none")] | None = 128
    accelerators: Annotated[str, outside("part", "of a second stream: bundled, untrained, a file, or none")] = ""

    sites = ("embedding", "residual")
    paper = "Bhendawade et al., M2R2, 2025, arXiv 2502.02040"

    def start(self, model: Model, tokens: Tensor) -> _Reader:
        lens = load_accelerated(model, self.accelerators) if self.accelerators else None
        return _Reader(model, sample(len(tokens), self.positions), lens)

    @classmethod
    def examples(cls) -> tuple[ResidualVelocity, ...]:
        return cls(), cls(positions=5, accelerators="untrained")


class _Reader(Reader):
    def __init__(self, model: Model, places: Tensor, lens: AcceleratedLens | None) -> None:
        self._places, self._lens, self._dtype = places, lens, model.dtype
        self._chosen = places.to(model.device)
        self._kept = torch.empty(model.layers + 1, len(places), model.anatomy.width, device=model.device)

    def see(self, site: str, layer: int, value: Any) -> None:
        self._kept[layer + 1] = value[0, self._chosen]

    def finish(self) -> xr.Dataset:
        before, after, last = self._kept[:-1], self._kept[1:], self._kept[-1]
        moved = after - before
        speed = over(moved.norm(dim=-1), before.norm(dim=-1))
        both = "block position"
        variables = {
            "speed": variable(both, speed, "1", "move of the stream, over its length"),
            "turn": variable(both, _cosine(before, after).acos() / torch.pi, "1", "angle that it turns by, over pi"),
            "heading": variable(both, _cosine(moved, last - before), "1", "cosine of the move with the way to the end"),
            "arrival": variable("layer position", _cosine(self._kept, last), "1", "cosine with the end of the stream"),
        }
        if self._lens is not None:
            arrival = _cosine(self._accelerated(self._lens), last)
            variables["accelerated"] = variable("layer position", arrival, "1", "the same of the accelerated stream")
        layers = len(moved)
        coordinates = {
            **axis("block", np.arange(layers), "layer", "block"),
            **axis("layer", np.arange(-1, layers), "layer", "layer"),
            **axis("position", self._places, "tokens", "position"),
        }
        return xr.Dataset(variables, coordinates)

    def _accelerated(self, lens: AcceleratedLens) -> Tensor:
        """The accelerated stream [layers + 1, positions, width] beside the model's own."""
        lead, found = None, self._kept.clone()
        for layer, x in enumerate(self._kept[1:-1]):
            if layer in lens.layers:
                lead = lens.advance(x.to(self._dtype), layer, lead)
            if lead is not None:
                found[layer + 1] += lead
        return found


def _cosine(one: Tensor, other: Tensor) -> Tensor:
    """Cosine along the last dimension; 0 where one of them is nothing."""
    directions = (torch.nn.functional.normalize(each, dim=-1, eps=1e-30) for each in (one, other))
    return torch.linalg.vecdot(*torch.broadcast_tensors(*directions)).clamp(-1, 1)
