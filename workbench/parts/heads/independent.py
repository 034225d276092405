"""Heads that each look at the same feature and at nothing else.

Source
------
Cai et al., Medusa: Simple LLM Inference Acceleration Framework with Multiple Decoding Heads, 2024, arXiv 2401.10774.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from workbench.parts.heads.base import DraftHeads, ResidualHead, State
from workbench.parts.trained import trained


@trained("MedusaHeads", "Cai et al., Medusa, 2024, arXiv 2401.10774")
class IndependentHeads(DraftHeads):
    """Head d is ``h + SiLU(W_d h)`` of the feature h, then the unembedding; at first all say the next token."""

    independent = True

    def __init__(self, width: int, heads: int, vocabulary: Tensor, ranks: int = 8) -> None:
        super().__init__(width, heads, vocabulary, ranks)
        self.blocks = nn.ModuleList(ResidualHead(width) for _ in range(heads))

    def rows(self, features: Tensor, embeddings: Tensor) -> list[Tensor]:
        tokens = features.shape[1]
        return [block(features[:, : tokens - depth]) for depth, block in enumerate(self.blocks, 1)]

    def begin(self, memory: Any, feature: Tensor, position: int, recent: Tensor) -> State:
        return (feature,)

    def step(self, memory: Any, depth: int, state: State, embeddings: Tensor, position: int) -> tuple[Tensor, State]:
        return self.blocks[depth - 1](state[0]), state
