"""One attention over all features so far, narrow enough that a draft step hardly pays for it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workbench.models.rotate import Rope, rotate
from workbench.parts.heads.base import normed, zero_linear

_INNER, _HEAD = 256, 64


class ContextAttention(nn.Module):
    """Pre-normed multi-head attention with rotary positions (Su et al., RoFormer, 2021, arXiv 2104.09864).

    Parameters
    ----------
    width : int
        Of what comes in and goes out; the attention itself is at most 256 wide, in heads of 64.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = width if width < _HEAD else min(_INNER, width // _HEAD * _HEAD)
        self.head = min(_HEAD, inner)
        self.query = nn.Linear(width, inner, bias=False)
        self.key = nn.Linear(width, inner, bias=False)
        self.value = nn.Linear(width, inner, bias=False)
        self.output = zero_linear(inner, width)

    def queries(self, x: Tensor, positions: Tensor) -> Tensor:
        """Tensor [batch, heads, tokens, head_dim] from ``x`` [batch, tokens, width] at ``positions`` [tokens]."""
        return self._turned(self.query(normed(x)), positions)

    def keys_values(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values, each [batch, heads, tokens, head_dim]."""
        inside = normed(x)
        value = self.value(inside).unflatten(-1, (-1, self.head)).transpose(1, 2)
        return self._turned(self.key(inside), positions), value

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
        """What the attention adds [batch, tokens, width]; ``mask`` is bool [tokens, keys], True where visible."""
        attended = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
        return self.output(attended.transpose(1, 2).flatten(2))

    def _turned(self, x: Tensor, positions: Tensor) -> Tensor:
        rope = tables(positions, self.head, x.dtype)
        return rotate(x.unflatten(-1, (-1, self.head)), rope).transpose(1, 2)


def tables(positions: Tensor, size: int, dtype: torch.dtype) -> Rope:
    """Cosine and signed sine, each [tokens, 1, size], as :func:`workbench.models.rotate.rotate` wants them."""
    halves = torch.arange(0, size, 2, device=positions.device, dtype=torch.float32) / size
    angles = positions.float()[:, None] * 10000.0**-halves
    cosine, sine = angles.cos(), angles.sin()
    return (
        torch.cat((cosine, cosine), -1).to(dtype)[:, None],
        torch.cat((-sine, sine), -1).to(dtype)[:, None],
    )
