"""Padding positions after the last token whose outputs are the tokens further on.

Source
------
Sun et al., Decoding at the Speed of Thought: Harnessing Parallel Decoding of Lexical Units for LLMs, 2024, arXiv
2405.15208.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workbench.models import Model
from workbench.models.device import numbers
from workbench.parts.loading import sizes
from workbench.parts.lookahead.base import EmbeddedPart


class Padding(EmbeddedPart):
    """The row of order k is the k-th padding embedding plus ``B_k silu(A x)`` of its root's embedding x.

    The second term tells every padding position directly which token came last; the model itself, which the paper
    trains to look there, is frozen here.

    Parameters
    ----------
    embeddings : Tensor [orders, width]
        First values.
    rank : int
        Width between A and B.
    """

    def __init__(self, embeddings: Tensor, rank: int, ranks: int = 1) -> None:
        super().__init__(embeddings, ranks)
        orders, width = embeddings.shape
        self.inner = nn.Parameter(torch.randn(rank, width) / width**0.5)
        self.outer = nn.Parameter(torch.zeros(orders, width, rank))

    @classmethod
    def untrained(cls, model: Model, orders: int) -> Self:
        return cls(torch.zeros(orders, model.anatomy.width), 4)

    @classmethod
    def like(cls, tensors: dict[str, Tensor], ranks: int) -> Self:
        return cls(tensors["embeddings"], sizes(tensors, "inner", 2)[0], ranks)

    def rows(self, roots: Tensor, orders: Sequence[int]) -> Tensor:
        places = numbers(orders, roots.device) - 1
        # A root's embedding is small and of another size in every model.
        x = F.rms_norm(roots.to(self.inner.dtype), roots.shape[-1:])
        inner = F.silu(F.linear(x, self.inner))
        offset = torch.einsum("...rk,rwk->...rw", inner, self.outer[places].to(inner.dtype))
        return (self.embeddings[places] + offset).to(roots.dtype)
