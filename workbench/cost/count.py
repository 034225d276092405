"""Counted floating-point operations and bytes of one forward, from what ran.

A multiply-add counts as two operations. Norms, activations and softmax are left out: they are below one percent of a
forward. Weights that a pass uses count once for each pass, whatever the number of tokens; keys and values once for each
KV head and pass.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BlockCost:
    """Constants of one block.

    Attributes
    ----------
    dense : int
        Weight elements that every token multiplies.
    expert : int
        Weight elements of one expert; 0 for a dense block.
    heads, kv_heads, head_dim : int
    item : int
        Bytes of one element.
    """

    dense: int
    expert: int
    heads: int
    kv_heads: int
    head_dim: int
    item: int

    def flops(self, tokens: int, keys_read: float, experts_per_token: float = 0.0) -> int:
        """Operations of ``tokens`` tokens, each reading ``keys_read`` keys on average."""
        weights = self.dense + self.expert * experts_per_token
        return int(2 * tokens * weights + 4 * tokens * keys_read * self.heads * self.head_dim)

    def bytes(self, tokens: int, keys_touched: float, experts_run: int = 0, entry_bytes: float | None = None) -> int:
        """Bytes of weights and of keys and values read, and of new keys and values written: ``entry_bytes`` for a key
        and its value over all heads, by default elements as wide as the weights'."""
        if entry_bytes is None:
            entry_bytes = 2 * self.kv_heads * self.head_dim * self.item
        return int((self.dense + self.expert * experts_run) * self.item + (keys_touched + tokens) * entry_bytes)
