"""Run fewer layers: how many follows from the target speed-up alone, and which are spread evenly.

Paper
-----
Liu, Meng, Zhou, Accelerating Inference in Large Language Models with a Unified Layer Skipping Strategy, 2024,
arXiv 2404.06954.

Formula
-------
Of L layers n = max(2, round(L / speedup)) run: round(i (L - 1) / (n - 1)) for i = 0 ... n - 1 (``spread``). Beside it,
as many skipped in one stretch: the last ones (``late``), those behind the first (``early``), or the ones between.

Deviates
--------
The paper fine-tunes the model with the skipping in place; here the weights are as they are, which costs more quality.
First and last layer are always run but by ``late``, which is a model cut off. The contiguous orders are what the paper
sets itself against.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self, get_args

from pydantic import Field
from torch import Tensor

from workbench.engine import Run
from workbench.engine.slots import StretchPolicy
from workbench.models.model import evenly
from workbench.settings import settings
from workbench.techniques._technique import Technique, register

Order = Literal["spread", "early", "middle", "late"]
ORDERS: tuple[Order, ...] = get_args(Order)


@register
@settings
class UnifiedLayerSkip(Technique):
    """The same layers for every token, so batches and the KV cache stay right.

    Parameters
    ----------
    speedup : float
        Target speed-up over all layers: layers run are ``round(layers / speedup)``, at least two.
    order : {"spread", "early", "middle", "late"}
        Where those lie that are skipped: everywhere, as in the paper; or together, behind the first layer, in the
        middle, or at the end.

    Notes
    -----
    The paper's point holds here against the ends and not against the middle: of the bundled model, which was not
    trained for it, a stretch of the middle is missed less than as many layers all over it. As all tokens skip alike, a
    batch saves as much as each of its texts alone: ``tests/benchmarks/bench_layer_skipping.py``.
    """

    speedup: Annotated[float, Field(ge=1.0, le=16.0, description="target speed-up over all layers")] = 1.25
    order: Annotated[Order, Field(description="which layers are skipped")] = "spread"

    slots = ("depth",)
    exact = False
    paper = "Liu et al., Unified Layer Skipping, 2024, arXiv 2404.06954"

    def start(self, run: Run) -> _Skip:
        return _Skip(self.kept(run.model.layers))

    def kept(self, layers: int) -> list[int]:
        """Layers that run, of ``layers``."""
        count = max(min(2, layers), round(layers / self.speedup))
        if self.order == "spread":
            return evenly(layers, count)
        below = {"early": 1, "middle": count - count // 2, "late": count}[self.order]
        return [*range(below), *range(layers - count + below, layers)]

    @classmethod
    def neutral(cls) -> Self:
        return cls(speedup=1.0)

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return cls(speedup=1.4), cls(speedup=2.0, order="middle")


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
