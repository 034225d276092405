"""The formula of one block; that it is what ran is tested with the engine (``tests/engine/test_counts.py``)."""

from dataclasses import dataclass

from workbench.cost.count import BlockCost


@dataclass
class Elements:
    """Weights of a number of elements and bits each."""

    count: int
    bits: int = 16

    def flops(self, rows):
        return 2 * rows * self.count

    def bytes(self, rows):
        return self.count * self.bits // 8


def test_by_hand():
    cost = BlockCost(dense=Elements(1000), expert=Elements(100), heads=4, head_dim=8)
    assert cost.flops(tokens=3, keys_read=5.0, experts_per_token=2.0) == 2 * 3 * (1000 + 200) + 4 * 3 * 5 * 4 * 8
    assert cost.bytes(tokens=3, keys_touched=7, experts_run=4, entry_bytes=64) == (1000 + 400) * 2 + (7 + 3) * 64


def test_a_dense_block_has_no_experts_to_count():
    cost = BlockCost(dense=Elements(1000, 32), expert=None, heads=4, head_dim=8)
    assert cost.flops(1, 0) == 2000
    assert cost.bytes(1, 0, entry_bytes=128) == 1000 * 4 + 128


def test_weights_are_counted_as_they_are_kept_whatever_keys_and_values_are():
    cost = BlockCost(dense=Elements(1000, 4), expert=Elements(100, 8), heads=4, head_dim=8)
    assert cost.bytes(tokens=1, keys_touched=7, experts_run=3, entry_bytes=36.5) == 500 + 3 * 100 + 8 * 36.5


def test_every_number_of_rows_is_asked_for_once():
    class Counting(Elements):
        asked = []

        def flops(self, rows):
            self.asked.append(rows)
            return super().flops(rows)

    cost = BlockCost(Counting(10), None, 1, 1)
    assert [cost.flops(rows, 0) for rows in (1, 1, 3, 1)] == [20, 20, 60, 20]
    assert Counting.asked == [1, 3]
