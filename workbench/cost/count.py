"""Counted floating-point operations and bytes of one forward, from what ran.

A multiply-add counts as two operations. Norms, activations and softmax are left out: they are below one percent of a
forward. Weights that a pass uses count once for each pass, whatever the number of tokens; keys and values once for each
KV head and pass.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol


class Counted(Protocol):
    """Weights that say what a product with them costs."""

    def flops(self, rows: int) -> int:
        """Operations of so many rows."""

    def bytes(self, rows: int) -> int:
        """Bytes of weights, as they are kept, that so many rows read."""


@dataclass(frozen=True)
class BlockCost:
    """Constants of one block.

    Attributes
    ----------
    dense : Counted
        What every token multiplies.
    expert : Counted or None
        One expert, which stands for all; None for a dense block.
    heads, head_dim : int
        0 where there is no attention.
    """

    dense: Counted
    expert: Counted | None
    heads: int
    head_dim: int
    _known: dict[int, tuple[int, int]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def flops(self, tokens: int, keys_read: float, experts_per_token: float = 0.0) -> int:
        """Operations of ``tokens`` tokens, each reading ``keys_read`` keys on average."""
        experts = 0 if self.expert is None else tokens * experts_per_token * self.expert.flops(1)
        weights, _ = self.weights(tokens)
        return int(weights + experts + 4 * tokens * keys_read * self.heads * self.head_dim)

    def bytes(self, tokens: int, keys_touched: float, experts_run: int = 0, entry_bytes: float = 0.0) -> int:
        """Bytes of weights and of keys and values read, and of new keys and values written: ``entry_bytes`` for a key
        and its value over all heads, as they are stored."""
        experts = 0 if self.expert is None else experts_run * self.expert.bytes(tokens)
        _, weights = self.weights(tokens)
        return int(weights + experts + (keys_touched + tokens) * entry_bytes)

    def weights(self, tokens: int) -> tuple[int, int]:
        """Operations of ``tokens`` tokens with what every token multiplies, and bytes of it that they read."""
        known = self._known.get(tokens)
        if known is None:
            known = self._known[tokens] = self.dense.flops(tokens), self.dense.bytes(tokens)
        return known
