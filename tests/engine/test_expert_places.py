"""Experts that live elsewhere, in another form, are counted as they are stored."""

from dataclasses import dataclass, replace

from helpers import random_tokens
from toys.linear_maps import EightBit, LowRank

from workbench.engine import Decoder
from workbench.models.tiny import tiny

PROMPT = random_tokens(12) * 2


@dataclass
class FewBits(EightBit):
    """Two weights to a byte; and a product reads a byte for every row, which no dense one does."""

    def bytes(self, rows):
        return self.codes.numel() // 2 + rows


class Small:
    def choose_experts(self, block, x, logits):
        return block.route(logits)

    def fetch_expert(self, block, expert):
        own = block.router.experts[expert]
        return replace(own, gate_up=LowRank.of(own.gate_up, 4), down=FewBits.of(own.down))


def test_fetched_experts_are_counted_as_they_are_stored():
    """By hand: the model's own run less its experts, plus what the fetched ones' maps say of the rows they get."""
    model = tiny("mixtral")
    blocks, policy = [block for block in model.anatomy.blocks if block.router is not None], Small()
    plain, small = Decoder(model), Decoder(model, policies={"experts": policy})
    rows = []

    def watch(site, layer, value):
        if site == "router_logits":
            _, indices = model.anatomy.blocks[layer].route(value)
            rows.append((layer, indices.flatten().bincount(minlength=len(blocks[0].router.experts)).tolist()))

    small.watch = watch
    for decoder in (plain, small):
        decoder.prefill(PROMPT)
        decoder.reset_counts()
    rows.clear()
    plain.forward([5, 9, 11, 60]), small.forward([5, 9, 11, 60])
    small_flops, small_bytes, own_experts = 0, 0, 0
    expert = blocks[0].router.experts[0]
    codes, factors = expert.down.weight.numel(), 4 * sum(expert.gate_up.weight.shape)
    for _, counts in rows:
        for count in filter(None, counts):
            small_flops += 2 * count * (codes + factors)
            small_bytes += codes // 2 + count + 4 * factors
            own_experts += 1
    assert len(rows) == len(blocks) and own_experts == sum(small.experts_run)
    own_flops = 4 * len(blocks) * blocks[0].router.chosen * expert.flops(1)
    # What the two passes choose in later layers may differ: the plain one is counted at its own experts.
    assert small.flops == plain.flops - own_flops + small_flops
    assert small.bytes == plain.bytes - sum(plain.experts_run) * expert.bytes(4) + small_bytes
    assert small.bytes < plain.bytes and small.flops < plain.flops
