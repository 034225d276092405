"""What a block multiplies, for the counts of a decoder."""

from __future__ import annotations

from workbench.cost.count import BlockCost
from workbench.models import Block


def block_cost(block: Block) -> BlockCost:
    """The constants of a block; a shared expert is part of what every token multiplies."""
    dense = [block.query_key_value, block.attention_output]
    dense += [block.up, block.down] if block.router is None else []
    elements = sum(projection.weight.numel() for projection in dense)
    expert = 0
    if block.router is not None:
        elements += block.router.weight.numel()
        elements += 0 if block.shared is None else block.shared.elements
        expert = block.router.gate_up[0].numel() + block.router.down[0].numel()
    weight = block.query_key_value.weight
    return BlockCost(elements, expert, block.heads, block.kv_heads, block.head_dim, weight.element_size())
