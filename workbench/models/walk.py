"""The blocks of a model one after the other, where there is no cache: texts read whole, all of it differentiable."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import SimpleNamespace

import torch
from torch import Tensor
from torch.nn import functional as F

from workbench.models.block import Block, Choice
from workbench.models.rotate import Rope

Attend = Callable[[Block, Tensor, Tensor, Tensor], Tensor]
"""``attend(block, query, key, value)``: weighted values [batch, heads, tokens, head_dim]."""


def walk(
    blocks: Iterable[Block],
    x: Tensor,
    ropes: Mapping[str, Rope],
    attend: Attend,
    see: Callable[[int, Tensor], None] | None = None,
    choose: Callable[[Block], Choice] | None = None,
) -> Tensor:
    """Residual stream [batch, tokens, width] after the last of some blocks, from the one before the first.

    Parameters
    ----------
    blocks : iterable of Block
        In order; those of a model, or a stretch of them.
    x : Tensor [batch, tokens, width]
    ropes : mapping of str to Rope
        As :meth:`workbench.models.anatomy.Anatomy.rope` gives them.
    attend : callable
        Who sees whom: queries [batch, heads, tokens, head_dim], keys and values [batch, kv_heads, tokens, head_dim] of
        a block. A recurrent mixer begins with an empty state and is not asked.
    see : callable, optional
        ``see(layer, x)`` is told the residual stream before every block.
    choose : callable, optional
        ``choose(block)`` decides what runs of a dense block's MLP.

    Notes
    -----
    A pass of :class:`workbench.engine.Decoder` takes the same steps where there is a cache.
    """
    for block in blocks:
        if see is not None:
            see(block.index, x)
        choice = choose(block) if choose is not None and block.router is None else None
        if block.mixer.recurrent:
            mixed = block.advance(x, SimpleNamespace(tensors=block.mixer.new_state()))
            x = block.add(x, mixed, choose=choice)
        else:
            x = block.leave(x, attend(block, *block.enter(x, ropes.get(block.rope_kind))), choose=choice)
    return x


def causal(block: Block, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Weighted values [batch, heads, tokens, head_dim] where every token sees itself and those before it."""
    count = query.shape[2]
    key, value = key.to(query.dtype), value.to(query.dtype)
    uncut = block.window is None or count <= block.window
    if uncut and block.scoring.plain:
        return F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=block.scale, enable_gqa=True)
    places = torch.arange(count, device=query.device)
    distance = places[:, None] - places
    mask = distance >= 0 if uncut else (distance >= 0) & (distance < block.window)
    if not block.scoring.plain:
        return block.scoring.attend(query, key, value, ~mask)
    return F.scaled_dot_product_attention(query, key, value, mask, scale=block.scale, enable_gqa=True)
