"""Trained embeddings of tokens that are in no vocabulary.

Source
------
Chen et al., Hardware-Aware Parallel Prompt Decoding for Memory-Efficient Acceleration of LLM Inference, 2024, arXiv
2405.18628.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Self

import torch
from pydantic import Field
from torch import Tensor

from workbench.models import Model
from workbench.models.device import numbers
from workbench.parts.lookahead.base import EmbeddedPart, entering_rows
from workbench.parts.trained import trained
from workbench.settings import settings


@settings
class _Training:
    """Embeddings of prompt tokens, a few thousand numbers, through the whole frozen model."""

    learning_rate: Annotated[float, Field(gt=0, description="peak learning rate")] = 5e-3

    def part(self, model: Model) -> PromptTokens:
        table = entering_rows(model)
        # Where tokens lie, but no token: the mean, and a spread like that of a token.
        spread = table.std(0) * torch.randn(self.orders, table.shape[1], device=table.device)
        return PromptTokens(table.mean(0) + spread).to(model.device)


@trained("ParallelPrompt", "Chen et al., Parallel Prompt Decoding, 2024, arXiv 2405.18628")
class PromptTokens(EmbeddedPart):
    """The row of order k is the k-th trained embedding, whatever its root.

    Parameters
    ----------
    embeddings : Tensor [orders, width]
        First values.
    """

    Training = _Training

    @classmethod
    def untrained(cls, model: Model, orders: int) -> Self:
        return cls(torch.zeros(orders, model.anatomy.width))

    def rows(self, roots: Tensor, orders: Sequence[int]) -> Tensor:
        chosen = self.embeddings[numbers(orders, roots.device) - 1].to(roots.dtype)
        return chosen.expand(*roots.shape[:-2], -1, -1)
