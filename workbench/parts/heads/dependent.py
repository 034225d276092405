"""Heads that also read the embeddings of the tokens speculated before.

Source
------
Ankner et al., Hydra: Sequentially-Dependent Draft Heads for Medusa Decoding, 2024, arXiv 2402.05109.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workbench.parts.heads.base import DraftHeads, State, normed, zero_linear
from workbench.parts.trained import trained

_INNER = 256


@trained("HydraHeads", "Ankner et al., Hydra, 2024, arXiv 2402.05109")
class DependentHeads(DraftHeads):
    """Head d is ``h + W2_d SiLU(W1_d [h; e_1; …; e_d])``: the feature and the tokens known by then, side by side."""

    def __init__(self, width: int, heads: int, vocabulary: Tensor, ranks: int = 8) -> None:
        super().__init__(width, heads, vocabulary, ranks)
        inner = min(_INNER, 2 * width)
        self.inward = nn.ModuleList(nn.Linear((depth + 1) * width, inner) for depth in range(1, heads + 1))
        self.outward = nn.ModuleList(zero_linear(inner, width) for _ in range(heads))

    def rows(self, features: Tensor, embeddings: Tensor) -> list[Tensor]:
        tokens, known = features.shape[1], normed(embeddings)
        out = []
        for depth in range(1, self.heads + 1):
            count = tokens - depth
            known_tokens = [known[:, place : place + count] for place in range(1, depth + 1)]
            out.append(self._row(depth, features[:, :count], torch.cat(known_tokens, -1)))
        return out

    def begin(self, memory: Any, feature: Tensor, position: int, recent: Tensor) -> State:
        return feature, feature[:, :0]

    def step(self, memory: Any, depth: int, state: State, embeddings: Tensor, position: int) -> tuple[Tensor, State]:
        feature, known_tokens = state
        known_tokens = torch.cat((known_tokens, normed(embeddings)), -1)
        return self._row(depth, feature, known_tokens), (feature, known_tokens)

    def _row(self, depth: int, feature: Tensor, known_tokens: Tensor) -> Tensor:
        inside = self.inward[depth - 1](torch.cat((normed(feature), known_tokens), -1))
        return feature + self.outward[depth - 1](F.silu(inside))
