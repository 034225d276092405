"""What some neurons of a dense MLP make of some rows, what something else makes of the others, and blocks of some."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from workbench.models.projection import product_of_some, some_inputs, some_outputs

if TYPE_CHECKING:
    from workbench.models.block import Block, Choice


def some_neurons(block: Block, normed: Tensor, chosen: Tensor) -> Tensor:
    """What the chosen neurons of a block's MLP add to the residual stream [batch, tokens, width].

    Parameters
    ----------
    block : Block
        A dense one.
    normed : Tensor [batch, tokens, width]
        What the first projection multiplies.
    chosen : int Tensor [chosen], or bool Tensor [batch * tokens, neurons]
        Neurons that run for all rows, or for each row its own. To a row without any nothing is added, no bias either.
    """
    if chosen.dtype == torch.bool:
        return _by_row(block, normed, chosen)
    if not len(chosen):
        return torch.zeros_like(normed)
    inner = _inner(block, normed, chosen)
    return block.added(some_inputs(block.down, chosen)(inner), block.mlp_post_norm)


def some_rows(block: Block, x: Tensor, own: Tensor, added: Tensor, choose: Choice) -> Tensor:
    """What is added to the residual stream [batch, tokens, width] where some rows alone go through a block's MLP.

    Parameters
    ----------
    block : Block
        A dense one.
    x : Tensor [batch, tokens, width]
        Residual stream that the MLP reads.
    own : int Tensor [own]
        Their places among ``batch * tokens``; ``choose`` is asked which neurons run for them.
    added : Tensor [batch * tokens, width]
        What is added to the others.
    """
    if len(own):
        flat = x.reshape(-1, x.shape[-1])
        given = block.mlp_sublayer(flat[own][None], choose=SimpleNamespace(neurons=choose.neurons))
        added = added.index_copy(0, own, given[0])
    return added.view_as(x)


def _by_row(block: Block, normed: Tensor, chosen: Tensor) -> Tensor:
    """A row's sums have one order whichever rows are beside it, and so whichever neurons those run: ``down`` is
    multiplied whole, with zeros for neurons that do not run, as its columns lie across its rows in memory and are read
    all the same."""
    flat = normed.reshape(-1, normed.shape[-1])
    rows, run = chosen.any(1).nonzero()[:, 0], chosen.any(0).nonzero()[:, 0]
    out = torch.zeros_like(flat)
    if len(rows):
        mask = chosen[rows]
        inner = flat.new_zeros(mask.shape)
        inner[:, run] = _inner(block, flat[rows], run) * mask[:, run]
        out[rows] = block.added(block.down(inner), block.mlp_post_norm)
    return out.view_as(normed)


def _inner(block: Block, normed: Tensor, chosen: Tensor) -> Tensor:
    """Activations [..., chosen] of some neurons."""
    return block.activation(product_of_some(block.up, normed, rows_of(block, chosen)), block.gated)


def rows_of(block: Block, chosen: Tensor) -> Tensor:
    """Outputs of a block's ``up`` that some neurons are made of, int Tensor: two each where the MLP is gated."""
    return torch.cat((chosen, chosen + block.down.weight.shape[1])) if block.gated else chosen


def narrowed(block: Block, kept: Tensor) -> Block:
    """A dense block with the neurons ``kept`` (int Tensor) alone."""
    return replace(block, up=some_outputs(block.up, rows_of(block, kept)), down=some_inputs(block.down, kept))
