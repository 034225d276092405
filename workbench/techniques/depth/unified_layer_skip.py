"""Run fewer layers: how many follows from the target speed-up alone, and which are spread evenly.

Paper
-----
Liu, Meng, Zhou, Accelerating Inference in Large Language Models with a Unified Layer Skipping Strategy, 2024,
arXiv 2404.06954.

Formula
-------
Of L layers n = max(2, round(L / speedup)) run: round(i (L - 1) / (n - 1)) for i = 0 ... n - 1.

Deviates
--------
The paper fine-tunes the model with the skipping in place; here the weights are as they are, which costs more quality.
First and last layer are always run.
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field
from torch import Tensor

from workbench.engine import Run
from workbench.engine.slots import StretchPolicy
from workbench.models.model import evenly
from workbench.settings import settings
from workbench.techniques._technique import Technique, register


@register
@settings
class UnifiedLayerSkip(Technique):
    """The same evenly spread layers for every token, so batches and the KV cache stay right.

    Parameters
    ----------
    speedup : float
        Target speed-up over all layers: layers run are ``round(layers / speedup)``, at least two.
    """

    speedup: Annotated[float, Field(ge=1.0, le=16.0, description="target speed-up over all layers")] = 1.25

    slots = ("depth",)
    exact = False
    paper = "Liu et al., Unified Layer Skipping, 2024, arXiv 2404.06954"

    def start(self, run: Run) -> _Skip:
        return _Skip(self.kept(run.model.layers))

    def kept(self, layers: int) -> list[int]:
        """Layers that run, of ``layers``."""
        return evenly(layers, max(min(2, layers), round(layers / self.speedup)))

    @classmethod
    def neutral(cls) -> Self:
        return cls(speedup=1.0)

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return cls(speedup=1.4), cls(speedup=2.0)


class _Skip(StretchPolicy):
    def __init__(self, kept: list[int]) -> None:
        self._following: dict[int, int | None] = dict(zip([-1, *kept], [*kept, None], strict=True))
        self._ends: dict[int, int] = {}
        for layer in reversed(kept):
            self._ends[layer] = self._ends.get(layer + 1, layer)

    def next_layer(self, layer: int, x: Tensor) -> int | None:
        return self._following[layer]

    def stretch(self, layer: int) -> int:
        return self._ends[layer]
