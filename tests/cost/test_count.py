"""The formula of one block; that it is what ran is tested with the engine (``tests/engine/test_counts.py``)."""

from workbench.cost.count import BlockCost


def test_by_hand():
    cost = BlockCost(dense=1000, expert=100, heads=4, kv_heads=2, head_dim=8, item=2)
    assert cost.flops(tokens=3, keys_read=5.0, experts_per_token=2.0) == 2 * 3 * (1000 + 200) + 4 * 3 * 5 * 4 * 8
    assert cost.bytes(tokens=3, keys_touched=7, experts_run=4) == (1000 + 400 + 2 * (7 + 3) * 2 * 8) * 2


def test_a_dense_block_has_no_experts_to_count():
    cost = BlockCost(dense=1000, expert=0, heads=4, kv_heads=2, head_dim=8, item=4)
    assert cost.flops(1, 0) == 2000
    assert cost.bytes(1, 0) == (1000 + 2 * 2 * 8) * 4
