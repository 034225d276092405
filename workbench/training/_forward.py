"""A batch of texts through a model's own steps, differentiable, for recipes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from workbench.models import Anatomy, Block
from workbench.models.walk import causal, walk


def residual(
    anatomy: Anatomy,
    tokens: Tensor,
    dtype: torch.dtype | None = None,
    see: Callable[[int, Tensor], None] | None = None,
    choose: Callable[[Block], Any] | None = None,
) -> Tensor:
    """Residual stream [batch, tokens, width] after the last block, before the final norm.

    Parameters
    ----------
    anatomy : Anatomy
    tokens : int Tensor [batch, tokens]
        Texts that begin at the first column; what stands behind a text does not touch it, though all are read with the
        rotary factors of the longest.
    dtype : torch.dtype, optional
        Of the residual stream; by default the embedding's.
    see : callable, optional
        ``see(layer, x)`` is told the residual stream before every block.
    choose : callable, optional
        See :func:`workbench.models.walk.walk`.
    """
    positions = torch.arange(tokens.shape[1], device=tokens.device)
    ropes = anatomy.rope(positions)
    x = anatomy.embed(tokens, positions)
    x = x if dtype is None else x.to(dtype)
    return walk(anatomy.blocks, x, ropes, causal, see, choose)


def some_places(answer: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Text and place of at most so many tokens, drawn by chance, that come before one of an answer, bool [batch,
    tokens]: there it is foreseen."""
    chosen = answer[:, 1:].nonzero()
    text, place = chosen[torch.randperm(len(chosen), device=chosen.device)[:most]].unbind(1)
    return text, place


def streams(anatomy: Anatomy, tokens: Tensor, text: Tensor, place: Tensor) -> list[Tensor]:
    """Residual streams [places, width] before every block, and after the last, at some places of some texts."""
    found: list[Tensor] = []
    last = residual(anatomy, tokens, see=lambda layer, x: found.append(x[text, place]))
    return [*found, last[text, place]]
