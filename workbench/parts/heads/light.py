"""A light draft model: three tokens at the bottom, all of the frozen model's features above, residual heads on top.

Source
------
Zeng et al., Chimera: A Lossless Decoding Method for Accelerating Large Language Models Inference by Fusing all Tokens,
2024, arXiv 2402.15758.
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

_INNER = 384


@trained("Chimera", "Zeng et al., Chimera, 2024, arXiv 2402.15758")
class LightDraftModel(DraftHeads):
    """The trigram encoder turns a token and the two before it into what the frozen model's lower layers would; the
    full-context encoder lets it look at the features of all verified tokens and at the trigrams of the speculated ones
    up to itself; a residual head for each depth reads that beside the newest feature."""

    def __init__(self, width: int, heads: int, vocabulary: Tensor, ranks: int = 8) -> None:
        super().__init__(width, heads, vocabulary, ranks)
        inner = min(_INNER, 2 * width)
        self.trigram_inward = nn.Linear(3 * width, inner)
        self.trigram_outward = nn.Linear(inner, width, bias=False)
        self.context = ContextAttention(width)
        self.blend = zero_linear(width, width)
        self.blocks = nn.ModuleList(ResidualHead(width) for _ in range(heads))

    def rows(self, features: Tensor, embeddings: Tensor) -> list[Tensor]:
        tokens = features.shape[1]
        known = normed(embeddings)
        padded = F.pad(known, (0, 0, 2, 0))
        trigrams = self._trigram(torch.cat((padded[:, :-2], padded[:, 1:-1], known), -1))
        positions = torch.arange(tokens, device=features.device)
        queries = self.context.queries(trigrams, positions)
        both = [self.context.keys_values(x, positions) for x in (features, trigrams)]
        keys, values = (torch.cat(parts, 2) for parts in zip(*both))
        behind = positions[:, None] - positions
        out = []
        for depth, block in enumerate(self.blocks, 1):
            mask = torch.cat((behind >= depth, (behind >= 0) & (behind < depth)), 1)[depth:]
            attended = self.context(queries[:, :, depth:], keys, values, mask)
            out.append(self._head(block, features[:, : tokens - depth], trigrams[:, depth:], attended))
        return out

    def remember(self, memory: Any, features: Tensor, position: int) -> None:
        positions = torch.arange(position, position + len(features), device=features.device)
        memory.append(*self.context.keys_values(features[None], positions), positions)

    def begin(self, memory: Any, feature: Tensor, position: int, recent: Tensor) -> State:
        none = memory.keys[:, :, :0]
        return feature, normed(recent.unflatten(1, (2, -1))).flatten(1), none, none

    def step(self, memory: Any, depth: int, state: State, embeddings: Tensor, position: int) -> tuple[Tensor, State]:
        feature, recent, keys, values = state
        recent = torch.cat((recent, normed(embeddings)), -1)
        trigram = self._trigram(recent)
        here = numbers([position], trigram.device)
        key, value = self.context.keys_values(trigram[:, None], here)
        keys, values = torch.cat((keys, key), 2), torch.cat((values, value), 2)
        # All paths in one call: what they share is read once, and each sees only its own speculated tokens beside it.
        paths, held = len(trigram), memory.length
        own = torch.eye(paths, dtype=torch.bool, device=trigram.device).repeat_interleave(depth, 1)
        mask = torch.cat((own.new_ones(paths, held), own), 1)
        flat = [
            torch.cat((shared, each.transpose(0, 1).flatten(1, 2)[None]), 2)
            for shared, each in ((memory.keys, keys), (memory.values, values))
        ]
        attended = self.context(self.context.queries(trigram[:, None], here).transpose(0, 2), *flat, mask)[0]
        row = self._head(self.blocks[depth - 1], feature, trigram, attended)
        return row, (feature, recent[:, self.width :], keys, values)

    def _trigram(self, three: Tensor) -> Tensor:
        return self.trigram_outward(F.silu(self.trigram_inward(three)))

    def _head(self, block: ResidualHead, feature: Tensor, trigram: Tensor, attended: Tensor) -> Tensor:
        return block(feature + self.blend(trigram) + attended)
