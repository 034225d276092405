"""How often each rank of each head is right, kept in the part itself: a draft tree is chosen by it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_RATE = 0.02


def note_ranks(part: nn.Module, hits: Tensor) -> None:
    """Take in what one batch showed.

    Parameters
    ----------
    part : nn.Module
        With a buffer ``acceptance`` [heads, ranks].
    hits : Tensor [heads, ranks]
        Share of this batch's tokens that stood at each rank of each head.

    Notes
    -----
    While gradients are on, in training, the buffer follows as a moving average. While they are off, on held-out text,
    it is the mean over the batches since :func:`begin_ranks` or the last training step: what a finished part holds is
    what the last held-out pass measured.
    """
    seen = 0 if torch.is_grad_enabled() else getattr(part, "held_out_batches", 0) + 1
    part.held_out_batches = seen
    with torch.no_grad():
        part.acceptance.lerp_(hits.to(part.acceptance), 1 / seen if seen else _RATE)


def begin_ranks(part: nn.Module) -> None:
    """Let the mean over held-out batches start anew."""
    part.held_out_batches = 0
