"""How a layer weighs keys: scale, soft cap and sinks; and the weights written out for those who look at them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Scores of all heads that are written out at once: 256 MiB in float32.
_SCORES = 2**26


@dataclass
class Scoring:
    """What makes attention weights of query-key products.

    Attributes
    ----------
    scale : float
        What the products are multiplied by.
    softcap : float or None
        Scores become ``softcap * tanh(score / softcap)`` (Gemma 2).
    sinks : Tensor [heads] or None
        A learned score of each head that stands beside those of the keys in its softmax and has no value, so that a
        row of weights may sum to less than one (GPT-OSS).
    """

    scale: float
    softcap: float | None = None
    sinks: Tensor | None = None

    @property
    def plain(self) -> bool:
        """Whether the weights are a softmax of scaled products, as torch's fused attention has them."""
        return self.softcap is None and self.sinks is None

    def scores(self, products: Tensor) -> Tensor:
        """Scores, in float32 at least, of query-key products; ``products`` may be overwritten."""
        wide = products if products.dtype == torch.float64 else products.float()
        scores = wide.mul_(self.scale)
        return scores if self.softcap is None else torch.tanh(scores / self.softcap) * self.softcap

    def weights(self, products: Tensor, hidden: Tensor | None = None) -> Tensor:
        """Attention weights of query-key products.

        Parameters
        ----------
        products : Tensor [..., heads, rows, keys]
            May be overwritten.
        hidden : bool Tensor, optional
            True where a key is hidden from a query; any shape that broadcasts.

        Returns
        -------
        Tensor [..., heads, rows, keys]
            In float32 at least; each row sums to one, less what its head's sink takes.
        """
        scores = self.scores(products)
        if hidden is not None:
            scores = scores.masked_fill_(hidden, float("-inf"))
        if self.sinks is None:
            return scores.softmax(-1)
        beside = self.sinks.to(scores.dtype)[:, None, None].expand(*scores.shape[:-1], 1)
        return torch.cat((scores, beside), -1).softmax(-1)[..., :-1]

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, hidden: Tensor | None = None) -> Tensor:
        """Weighted values, written out for some queries at a time, so that a long prompt fits; differentiable.

        Parameters
        ----------
        query : Tensor [batch, heads, tokens, head_dim]
        keys, values : Tensor [batch, kv_heads, keys, head_dim]
        hidden : bool Tensor [tokens, keys] or [kv_heads, tokens, keys], optional
            True where a key is hidden from a token.

        Returns
        -------
        Tensor [batch, heads, tokens, head_dim]
        """
        step = max(1, _SCORES // (query.shape[0] * query.shape[1] * keys.shape[2]))
        parts = range(0, query.shape[2], step)
        out = [
            self._attend(
                query[:, :, start : start + step],
                keys,
                values,
                None if hidden is None else hidden[..., start : start + step, :],
            )
            for start in parts
        ]
        return out[0] if len(out) == 1 else torch.cat(out, 2)

    def _attend(self, query: Tensor, keys: Tensor, values: Tensor, hidden: Tensor | None) -> Tensor:
        kv_heads, tokens = keys.shape[1], query.shape[2]
        groups = query.shape[1] // kv_heads
        if hidden is not None and hidden.dim() == 3:
            hidden = hidden.repeat_interleave(query.shape[1] // hidden.shape[0], 0)
        grouped = query.unflatten(1, (kv_heads, groups)).flatten(2, 3)
        products = (grouped @ keys.transpose(-1, -2)).unflatten(2, (groups, tokens)).flatten(1, 2)
        weights = self.weights(products, hidden).to(values.dtype)
        grouped = weights.unflatten(1, (kv_heads, groups)).flatten(2, 3)
        return (grouped @ values).unflatten(2, (groups, tokens)).flatten(1, 2)


def attention_rows(
    query: Tensor, key: Tensor, scoring: Scoring, window: int | None = None, rows: Tensor | None = None
) -> Tensor:
    """Causal attention weights of some queries over all keys of the same pass.

    Parameters
    ----------
    query : Tensor [batch, heads, tokens, head_dim]
    key : Tensor [batch, kv_heads, tokens, head_dim]
    scoring : Scoring
    window : int, optional
        Sliding window in tokens.
    rows : int Tensor [rows], optional
        Which queries; all by default.

    Returns
    -------
    Tensor [batch, heads, rows, tokens]
        In float32 at least; each row sums to one, less what its head's sink takes.
    """
    batch, heads, tokens, _ = query.shape
    rows = torch.arange(tokens, device=query.device) if rows is None else rows
    groups = heads // key.shape[1]
    asked = query[:, :, rows].unflatten(1, (-1, groups)).flatten(2, 3)
    products = (asked @ key.transpose(-1, -2)).view(batch, heads, len(rows), tokens)
    distance = rows[:, None] - torch.arange(tokens, device=query.device)
    hidden = distance < 0 if window is None else (distance < 0) | (distance >= window)
    return scoring.weights(products, hidden)
