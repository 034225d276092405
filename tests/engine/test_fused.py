"""Blocks in one call: the same logits, entries and counts as step by step, and left where somebody looks or decides."""

from operator import attrgetter

import pytest
import torch
from helpers import random_tokens

from workbench.engine.decoder import Decoder
from workbench.engine.draft import Look
from workbench.engine.fused import fused_blocks
from workbench.models.families import FAMILIES
from workbench.models.projection import Projection
from workbench.models.tiny import tiny
from workbench_kernels.arithmetic import compiled, unavailable

pytestmark = pytest.mark.skipif(not compiled(torch.float32), reason=unavailable(torch.float32))
PROMPT = random_tokens(70)


def passes(model, fused, policies=None):
    """Logits of a prompt in two chunks, a step, a chain, a tree of which some stay, and what comes after."""
    decoder = Decoder(model, 8, policies)
    calls = []
    if not fused:
        decoder.fused = None
    elif decoder.fused is not None:
        run = decoder.fused.run
        decoder.fused = type("Counted", (), {
            "usable": decoder.fused.usable, "windows": decoder.fused.windows,
            "run": staticmethod(lambda *given: calls.append(len(given[2])) or run(*given)),
        })  # fmt: skip
    logits = [decoder.prefill(PROMPT, 40, "all"), decoder.forward([5]), decoder.forward([7, 8, 9], logits="all")]
    logits.append(decoder.forward([7, 8, 9, 10, 11], [-1, 0, 0, 1, 2], logits="all"))
    decoder.commit(5, [0, 2, 4])
    logits += [decoder.forward([3]), decoder.forward(random_tokens(30), logits="all")]
    entries = [(layer.keys, layer.values, layer.positions) for layer in decoder.cache.layers if not layer.recurrent]
    counts = decoder.flops, decoder.bytes, decoder.keys_read, decoder.layers_run, decoder.cache.keys_kept()
    return logits, entries, counts, calls


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_one_call_is_step_by_step(family, dtype):
    if not compiled(dtype):
        pytest.skip(unavailable(dtype))
    model = tiny(family, seed=1, dtype=dtype)
    one, other = passes(model, True), passes(model, False)
    for mine, theirs in zip(one[0], other[0], strict=True):
        assert torch.equal(mine, theirs)
    for mine, theirs in zip(one[1], other[1], strict=True):
        assert all(torch.equal(*pair) for pair in zip(mine, theirs, strict=True))
    assert one[2] == other[2]
    known = fused_blocks(model.anatomy)
    assert bool(one[3]) == (known is not None)


def test_the_usual_families_run_in_one_call():
    for family in ("llama", "qwen3", "mistral", "gemma3_text"):
        model = tiny(family)
        assert all(fused_blocks(model.anatomy).usable), family
        assert model.layers in passes(model, True)[3], family


class Decides:
    """A policy of three slots, which runs everything and counts how often it was asked."""

    def __init__(self, layers):
        self.layers, self.asked = layers, 0

    def attend(self, *given):
        self.asked += 1

    def neurons(self, *given):
        self.asked += 1

    def next_layer(self, layer, x):
        self.asked += 1
        return layer + 1 if layer + 1 < self.layers else None


@pytest.mark.parametrize("slot", ["attention", "depth", "mlp"])
def test_who_decides_gets_plain_steps(slot):
    model = tiny("llama")
    decoder, policy = Decoder(model, 8), Decides(model.layers)
    decoder.prefill(PROMPT)
    setattr(*((decoder.attend, "policy") if slot == "attention" else (decoder, slot)), policy)
    decoder.forward([5])
    assert policy.asked >= model.layers


def test_who_looks_gets_plain_steps():
    model, seen = tiny("llama"), []
    decoder = Decoder(model, 8, watch=lambda site, layer, value: seen.append(site))
    decoder.forward([5])
    assert seen.count("mlp_output") == model.layers


def test_a_block_that_gets_another_part_is_laid_out_anew(monkeypatch):
    model = tiny("llama")
    before = passes(model, True)[0]
    block = model.anatomy.blocks[1]
    monkeypatch.setattr(block, "down", Projection(block.down.weight * 2, block.down.bias))
    after, plain = passes(model, True), passes(model, False)
    assert not torch.equal(after[0][0], before[0]) and torch.equal(after[0][0], plain[0][0]) and after[3]


@pytest.mark.parametrize("part", ["down", "mlp_norm", "mixer.query_norm"])
def test_weights_that_are_given_other_memory_are_laid_out_anew(part):
    model = tiny("qwen3", seed=3)
    before = passes(model, True)[0]
    weight = attrgetter(part)(model.anatomy.blocks[1]).weight
    kept = weight.data
    try:
        weight.data = kept * 2
        after, plain = passes(model, True), passes(model, False)
        assert not torch.equal(after[0][0], before[0]) and torch.equal(after[0][0], plain[0][0]) and after[3]
    finally:
        weight.data = kept


def test_an_error_in_a_call_takes_the_pass_back(monkeypatch):
    model = tiny("llama")
    decoder, plain = Decoder(model, 8), Decoder(model, 8)
    for each in (decoder, plain):
        each.prefill(PROMPT)

    def fails(*given):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(decoder.fused, "run", fails)
        with pytest.raises(MemoryError):
            decoder.forward([5])
    assert decoder.cache.keys_kept() == plain.cache.keys_kept()
    assert torch.equal(decoder.forward([5]), plain.forward([5]))


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gemma2"])
def test_tokens_that_are_added_to_a_chain_run_in_one_call_too(family):
    model, found = tiny(family, seed=1), []
    for fused in (True, False):
        decoder, calls, seen = Decoder(model, 8), [], []
        decoder.prefill(PROMPT)
        if fused:
            run = decoder.fused.run
            decoder.fused = type("Counted", (), {
                "usable": decoder.fused.usable, "windows": decoder.fused.windows,
                "run": staticmethod(lambda *given, calls=calls, run=run: calls.append(len(given[2])) or run(*given)),
            })  # fmt: skip
        else:
            decoder.fused = None
        opened = decoder.open([5])
        opened.run(3)
        look = Look(1, lambda opened, seen=seen: seen.append((list(opened.rows), opened.layer, opened.x.clone())))
        for token in (7, 8, 9):
            opened.more([token], looks=[look])
        assert [each[:2] for each in seen] == [([row], 1) for row in (1, 2, 3)]
        found.append([opened.finish("all"), *(x for *_, x in seen), *(layer.keys for layer in decoder.cache.layers)])
        assert not fused or calls == [3, *[1, 2] * 3, model.layers - 3]
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


def test_a_sibling_that_is_added_gets_plain_steps():
    model = tiny("llama")
    decoder, other = Decoder(model, 8), Decoder(model, 8)
    for each in (decoder, other):
        each.prefill(PROMPT)
    opened = decoder.open([5])
    opened.run(2)
    for token, parent in ((7, 0), (8, 0), (9, 1)):
        opened.more([token], [parent])
    assert torch.equal(opened.finish("all"), other.forward([5, 7, 8, 9], [-1, 0, 0, 1], "all"))
