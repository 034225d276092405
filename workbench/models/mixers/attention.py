"""The steps of an attention sublayer around attention itself: projections in, norms, rotation, projection out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from workbench.models.attention import Scoring
from workbench.models.norm import Norm
from workbench.models.projection import LinearMap, some_outputs
from workbench.models.rotate import Rope, apart, rotate


@dataclass
class Attention:
    """Queries, keys and values of rows, and what the weighted values add.

    Attributes
    ----------
    heads, kv_heads, head_dim : int
    scoring : Scoring
        What makes attention weights of query-key products.
    window : int or None
        Sliding window in tokens, the query's own included.
    rope_kind : str or None
        Which of the model's rotary tables this layer reads; None where positions are learned, or there are none.
    query_key_value : LinearMap
        Queries, keys and values side by side.
    attention_output : LinearMap
    query_norm, key_norm : Norm or None
    norm_over_all_heads : bool
        Whether those norms see all heads as one vector rather than one head at a time.
    interleaved : bool
        Whether ``query_key_value`` gives (query, key, value) head by head rather than part by part.
    rotary_pairs : bool
        Whether neighbouring dimensions of the projections turn together. Queries and keys come out with the first of
        all pairs in front and the second behind: no product of them changes, and everybody turns them alike.
    """

    heads: int
    kv_heads: int
    head_dim: int
    scoring: Scoring
    window: int | None
    rope_kind: str | None
    query_key_value: LinearMap
    attention_output: LinearMap
    query_norm: Norm | None = None
    key_norm: Norm | None = None
    norm_over_all_heads: bool = False
    interleaved: bool = False
    rotary_pairs: bool = False

    recurrent: ClassVar[bool] = False

    def enter(self, normed: Tensor, rope: Rope | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [batch, heads, tokens, head_dim], keys and values [batch, kv_heads, tokens, head_dim] of a normed
        residual stream [batch, tokens, width]; see :meth:`workbench.models.Block.enter`."""
        mixed = self.query_key_value(normed)
        batch, tokens = normed.shape[:2]
        heads, kv_heads = self.heads, self.kv_heads
        if self.interleaved:
            mixed = mixed.view(batch, tokens, heads, 3, self.head_dim).transpose(2, 3).flatten(2, 3)
        else:
            if self.norm_over_all_heads and self.query_norm is not None:
                query, key, value = mixed.split(
                    (heads * self.head_dim, kv_heads * self.head_dim, kv_heads * self.head_dim), -1
                )
                mixed = torch.cat((self.query_norm(query), self.key_norm(key), value), -1)
            mixed = mixed.view(batch, tokens, heads + 2 * kv_heads, self.head_dim)
        rotated, value = mixed.split((heads + kv_heads, kv_heads), 2)
        if self.query_norm is not None and not self.norm_over_all_heads:
            query, key = rotated.split((heads, kv_heads), 2)
            rotated = torch.cat((self.query_norm(query), self.key_norm(key)), 2)
        if rope is not None:
            rotated = rotate(apart(rotated, rope[0].shape[-1]) if self.rotary_pairs else rotated, rope)
        query, key = rotated.split((heads, kv_heads), 2)
        return query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)

    def queries(self, normed: Tensor, rope: Rope | None) -> Tensor:
        """The queries of :meth:`enter` alone, from the rows of the projection that give them."""
        heads, size = self.heads, self.head_dim
        chosen: slice | Tensor = slice(heads * size)
        if self.interleaved:
            chosen = torch.arange(heads * 3 * size, device=normed.device).view(heads, 3, size)[:, 0].flatten()
        query = some_outputs(self.query_key_value, chosen)(normed)
        if self.query_norm is not None and self.norm_over_all_heads:
            query = self.query_norm(query)
        query = query.view(*normed.shape[:2], heads, size)
        if self.query_norm is not None and not self.norm_over_all_heads:
            query = self.query_norm(query)
        if rope is not None:
            query = rotate(apart(query, rope[0].shape[-1]) if self.rotary_pairs else query, rope)
        return query.transpose(1, 2)

    def leave(self, attended: Tensor) -> Tensor:
        """What weighted values [batch, heads, tokens, head_dim] add to the residual stream [batch, tokens, width],
        before the norm behind it."""
        return self.attention_output(attended.transpose(1, 2).flatten(2))

    def flops(self, rows: int) -> int:
        """Operations of both projections; attention itself hangs on the keys, and is counted where it is computed."""
        return self.query_key_value.flops(rows) + self.attention_output.flops(rows)

    def bytes(self, rows: int) -> int:
        """Bytes of weights that both projections of so many rows read."""
        return self.query_key_value.bytes(rows) + self.attention_output.bytes(rows)
