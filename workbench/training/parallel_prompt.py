"""Trains prompt tokens; see :class:`workbench.techniques.ParallelPrompt`."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from workbench.models import Model
from workbench.parts.lookahead import PromptTokens
from workbench.settings import settings
from workbench.training._ahead import LookaheadRecipe, entering_rows
from workbench.training._recipe import register


@register
@settings
class ParallelPrompt(LookaheadRecipe):
    """Embeddings of prompt tokens, a few thousand numbers, through the whole frozen model."""

    learning_rate: Annotated[float, Field(gt=0, description="peak learning rate")] = 5e-3

    paper = "Chen et al., Parallel Prompt Decoding, 2024, arXiv 2405.18628"

    def part(self, model: Model) -> PromptTokens:
        table = entering_rows(model)
        # Where tokens lie, but no token: the mean, and a spread like that of a token.
        spread = table.std(0) * torch.randn(self.orders, table.shape[1], device=table.device)
        return PromptTokens(table.mean(0) + spread).to(model.device)
