"""Heads along which one hidden state is passed on, meeting each speculated token in an attention decoder.

Source
------
Xiao et al., Clover: Regressive Lightweight Speculative Decoding with Sequential Knowledge, 2024, arXiv 2405.00263:
equations 1 and 2, figure 5 and section 3.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workbench.models.device import numbers
from workbench.parts.heads.base import DraftHeads, ResidualHead, State, normed, zero_linear
from workbench.parts.heads.context import ContextAttention
from workbench.parts.trained import trained


@trained("Clover", "Xiao et al., Clover, 2024, arXiv 2405.00263")
class RegressiveHeads(DraftHeads):
    """An augmenting attention over all features gives h_0; then ``h_d = h_(d-1) + SiLU(Q h_(d-1) * K e_d) * V e_d``
    with the normed unembedding row e_d of the newest token, and head d is ``h_d + SiLU(W_d h_d)``."""

    output_embeddings = True

    def __init__(self, width: int, heads: int, vocabulary: Tensor, ranks: int = 8) -> None:
        super().__init__(width, heads, vocabulary, ranks)
        self.augment = ContextAttention(width)
        self.query, self.key = (nn.Linear(width, width, bias=False) for _ in range(2))
        for linear in (self.query, self.key):
            nn.init.normal_(linear.weight, std=0.02)
            with torch.no_grad():
                linear.weight += torch.eye(width)
        self.value = zero_linear(width, width)
        self.blocks = nn.ModuleList(ResidualHead(width) for _ in range(heads))

    def rows(self, features: Tensor, embeddings: Tensor) -> list[Tensor]:
        tokens = features.shape[1]
        positions = torch.arange(tokens, device=features.device)
        keys, values = self.augment.keys_values(features, positions)
        mask = torch.ones(tokens, tokens, dtype=torch.bool, device=features.device).tril()
        hidden = features + self.augment(self.augment.queries(features, positions), keys, values, mask)
        out = []
        for depth, block in enumerate(self.blocks, 1):
            hidden = self._decode(hidden[:, : tokens - depth], embeddings[:, depth:])
            out.append(block(hidden))
        return out

    def remember(self, memory: Any, features: Tensor, position: int) -> None:
        positions = torch.arange(position, position + len(features), device=features.device)
        memory.append(*self.augment.keys_values(features[None], positions), positions)

    def begin(self, memory: Any, feature: Tensor, position: int, recent: Tensor) -> State:
        here = numbers([position], feature.device)
        queries = self.augment.queries(feature[None], here)
        return (feature + self.augment(queries, memory.keys, memory.values)[0],)

    def step(self, memory: Any, depth: int, state: State, embeddings: Tensor, position: int) -> tuple[Tensor, State]:
        hidden = self._decode(state[0], embeddings)
        return self.blocks[depth - 1](hidden), (hidden,)

    def _decode(self, hidden: Tensor, embeddings: Tensor) -> Tensor:
        token = normed(embeddings)
        return hidden + F.silu(self.query(normed(hidden)) * self.key(token)) * self.value(token)
