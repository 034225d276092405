"""What a block multiplies, for the counts of a decoder."""

from __future__ import annotations

from workbench.cost.count import BlockCost
from workbench.models import Block


def block_cost(block: Block) -> BlockCost:
    """The constants of a block; all its experts are taken to cost what the first one does."""
    mixer = block.mixer
    heads = (0, 0) if mixer.recurrent else (mixer.heads, mixer.head_dim)
    return BlockCost(block, None if block.router is None else block.router.experts[0], *heads)
