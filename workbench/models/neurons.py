"""What some neurons of a dense MLP make of some rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from workbench.models.projection import some_inputs, some_outputs

if TYPE_CHECKING:
    from workbench.models.block import Block


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
    single = chosen.dtype != torch.bool
    run = chosen if single else chosen.any(0).nonzero()[:, 0]
    if not len(run):
        return torch.zeros_like(normed)
    neurons = block.down.weight.shape[1]
    rows = torch.cat((run, run + neurons)) if block.gated else run
    inner = block.activation(some_outputs(block.up, rows)(normed), block.gated)
    if not single:
        inner = inner * chosen[:, run].view(*normed.shape[:-1], -1)
    out = block.added(some_inputs(block.down, run)(inner), block.mlp_post_norm)
    return out if single else out * chosen.any(1).view(*normed.shape[:-1], 1)
