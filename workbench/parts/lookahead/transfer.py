"""Linear maps from a token's hidden state at one layer to those of the tokens after it.

Source
------
Wu et al., Parallel Decoding via Hidden Transfer for Lossless Large Language Model Acceleration, 2024, arXiv 2404.12022.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from workbench.artifacts import fit
from workbench.parts.loading import sizes
from workbench.parts.lookahead.base import LookaheadPart


class HiddenMaps(LookaheadPart):
    """The row of order k is ``x + D_k x`` of its root's residual stream x before the layer.

    Parameters
    ----------
    width : int
    orders : int
    layer : int
        Rows enter before it.
    """

    def __init__(self, width: int, orders: int, layer: int, ranks: int = 8) -> None:
        super().__init__(orders, ranks)
        self.register_buffer("before_layer", torch.tensor([layer], dtype=torch.int32))
        # Differences from the identity, so that rounding them for storage does not touch what passes unchanged.
        self.maps = nn.Parameter(torch.zeros(orders, width, width))
        self._layer = layer

    @property
    def layer(self) -> int:
        return self._layer

    @property
    def width(self) -> int:
        return self.maps.shape[1]

    @classmethod
    def of(cls, tensors: dict[str, Tensor]) -> Self:
        orders, width, _ = sizes(tensors, "maps", 3)
        sizes(tensors, "before_layer", 1)
        part = cls(width, orders, int(tensors["before_layer"][0]), sizes(tensors, "acceptance", 2)[1])
        fit(part, tensors, "file of hidden maps")
        return part

    def rows(self, roots: Tensor, orders: Sequence[int]) -> Tensor:
        out = torch.empty_like(roots)
        chosen = torch.tensor(orders, device=roots.device)
        pieces = []
        for order in sorted(set(orders)):
            places = (chosen == order).nonzero()[:, 0]
            x = roots.index_select(-2, places)
            pieces.append((places, x + (x.to(self.maps.dtype) @ self.maps[order - 1].T).to(x.dtype)))
        return out.index_copy(-2, torch.cat([p for p, _ in pieces]), torch.cat([x for _, x in pieces], -2))
