"""What ran in a decoder, and what it cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from workbench.engine.block_cost import block_cost
from workbench.engine.ledger import MODEL, Ledger
from workbench.engine.mlp_choice import MlpChoice
from workbench.engine.state import KeyValueState, RecurrentState
from workbench.models import Block


class Counts:
    """Facts of passes since :meth:`reset_counts`; a base of :class:`workbench.engine.Decoder`.

    Parameters
    ----------
    blocks : sequence of Block
    ledger : Ledger

    Attributes
    ----------
    layers_run, keys_read, experts_run : list
        Layer numbers, mean keys read by a query of each, experts of each sparse layer.
    forwards : int
        Passes finished.
    ledger : Ledger
        What the model and its policies spent; ``flops`` and ``bytes`` are its sums.
    """

    def __init__(self, blocks: Sequence[Block], ledger: Ledger) -> None:
        self.ledger, self._blocks = ledger, blocks
        self._costs = [block_cost(block) for block in blocks]
        # A ledger that is shared holds what others spent in this step.
        self.reset_counts(ledger=False)

    @property
    def flops(self) -> int:
        """Counted since :meth:`reset_counts`, policies included."""
        return self.ledger.flops

    @property
    def bytes(self) -> int:
        """Counted since :meth:`reset_counts`, policies included."""
        return self.ledger.bytes

    def reset_counts(self, ledger: bool = True) -> None:
        """Start counting anew; ``ledger`` with what was spent, which others may have written into already."""
        self.layers_run: list[int] = []
        self.keys_read: list[float] = []
        self.experts_run: list[int] = []
        self.forwards = 0
        if ledger:
            self.ledger.reset()

    def count_block(
        self, index: int, tokens: int, keys_read: float, layer: KeyValueState, choice: MlpChoice | None
    ) -> None:
        """Write down that a block ran for so many tokens, which read ``keys_read`` keys on average."""
        touched = min(layer.length, keys_read) if tokens == 1 else layer.length
        self._count(index, tokens, keys_read, touched, layer.entry_bytes, choice)

    def count_blocks(
        self, indices: Sequence[int], tokens: int, keys_read: Sequence[float], layers: Sequence[Any]
    ) -> None:
        """The same for whole dense blocks, of which ``layers`` are the states; alike ones are counted at once. One
        without attention has read 0 keys and holds none."""
        alike = []
        for index, read, layer in zip(indices, keys_read, layers, strict=True):
            cost = self._costs[index]
            held = (0, 0.0) if layer.recurrent else (layer.length, layer.entry_bytes)
            alike.append((cost.weights(tokens), cost.heads * cost.head_dim, read, *held))
        for one, count in Counter(alike).items():
            cost, (*_, read, length, entry_bytes) = self._costs[indices[alike.index(one)]], one
            touched = min(length, read) if tokens == 1 else length
            flops, moved = cost.flops(tokens, read), cost.bytes(tokens, touched, 0, entry_bytes)
            self.ledger.count(MODEL, flops * count, moved * count)
        self.layers_run += indices
        self.keys_read += keys_read

    def count_recurrent(
        self, index: int, tokens: int, layer: RecurrentState, choice: MlpChoice | None, states: int
    ) -> None:
        """The same for a block with a recurrent mixer, whose state was read and written ``states`` times."""
        state = sum(tensor.numel() * tensor.element_size() for tensor in layer.tensors.values())
        self._count(index, tokens, 0.0, 0, 0.0, choice, 2 * states * state)

    def _count(
        self,
        index: int,
        tokens: int,
        keys_read: float,
        touched: float,
        entry_bytes: float,
        choice: MlpChoice | None,
        state_bytes: int = 0,
    ) -> None:
        cost, ran = self._costs[index], choice or MlpChoice
        self.layers_run.append(index)
        self.keys_read.append(keys_read)
        self.experts_run += [ran.experts_run] if cost.expert else []
        flops = cost.flops(tokens, keys_read, ran.experts_per_token) - ran.spared_flops
        moved = cost.bytes(tokens, touched, ran.experts_run, entry_bytes) - ran.spared_bytes
        self.ledger.count(MODEL, flops, moved + state_bytes)

    def count_borrowed(self, index: int, tokens: int, layer: KeyValueState) -> None:
        """Take back, of a block just counted, the keys and values that it neither computed nor stored."""
        block = self._blocks[index]
        whole, share = block.query_key_value, 2 * block.kv_heads / (block.heads + 2 * block.kv_heads)
        moved = share * whole.bytes(tokens) + tokens * layer.entry_bytes
        self.ledger.count(MODEL, -share * whole.flops(tokens), -moved)

    def count_fill(self, index: int, tokens: int, who: str, layer: KeyValueState) -> None:
        """Write down that keys and values of so many tokens were computed and stored, queries beside them."""
        self.ledger.product(who, tokens, self._blocks[index].query_key_value)
        self.ledger.count(who, bytes=tokens * layer.entry_bytes)
