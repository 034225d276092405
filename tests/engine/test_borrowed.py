"""Layers whose queries read the keys and values of another layer: computed once, kept once, read by both."""

import pytest
import torch
from helpers import random_tokens

from workbench.engine import Decoder
from workbench.engine.run import Run
from workbench.engine.sampling import Sampler
from workbench.engine.slots import BorrowingPolicy
from workbench.models.removed import without
from workbench.models.tiny import tiny
from workbench.models.walk import causal, walk
from workbench.techniques import SnapKV, StreamingLLM

FAMILIES = ["llama", "gemma2", "gpt2", "gpt_neox", "olmoe", "qwen3"]
PROMPT = random_tokens(13)
BORROWED = {2: 1}


class Borrowing(BorrowingPolicy):
    borrowed = BORROWED

    def next_layer(self, layer, x):
        return layer + 1 if layer < 3 else None

    def stretch(self, layer):
        return 3


def expected(model, tokens):
    """Logits of all tokens, where layer 2 attends to what layer 1 wrote."""
    held, anatomy = {}, model.anatomy

    def attend(block, query, key, value):
        held[block.index] = key, value
        return causal(block, query, *held[BORROWED.get(block.index, block.index)])

    positions = torch.arange(len(tokens))
    x = anatomy.embed(torch.tensor([tokens]), positions)
    return anatomy.unembed(walk(anatomy.blocks, x, anatomy.rope(positions), attend))[0]


@torch.inference_mode()
@pytest.mark.parametrize("family", FAMILIES)
def test_a_borrowing_layer_attends_to_the_other_ones_entries(family):
    model = tiny(family)
    decoder = Decoder(model, 8, {"depth": Borrowing()})
    reference = expected(model, PROMPT)
    found = decoder.prefill(PROMPT[:6], logits="all")
    for token in PROMPT[6:9]:
        found = torch.cat((found, decoder.forward([token])))
    found = torch.cat((found, decoder.forward(PROMPT[9:], logits="all")))
    torch.testing.assert_close(found, reference, rtol=1e-4, atol=1e-4)
    assert [layer.length for layer in decoder.cache.layers] == [13, 13, 0, 13]


@pytest.mark.parametrize("family", FAMILIES)
def test_queries_alone_are_those_of_the_whole_projection(family):
    anatomy = tiny(family).anatomy
    x = torch.randn(1, 7, 32, generator=torch.Generator().manual_seed(0))
    ropes = anatomy.rope(torch.arange(7))
    for block in anatomy.blocks:
        rope = ropes.get(block.rope_kind)
        torch.testing.assert_close(block.queries(x, rope), block.enter(x, rope)[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_what_is_borrowed_is_not_counted(family):
    model = tiny(family)
    plain, borrowing = Decoder(model, 8), Decoder(model, 8, {"depth": Borrowing()})
    for decoder in (plain, borrowing):
        decoder.prefill(PROMPT)
        decoder.reset_counts()
        decoder.forward([5])
    block = model.anatomy.blocks[2]
    weights = 2 * block.kv_heads * block.head_dim * 32
    assert plain.flops - borrowing.flops == 2 * weights
    assert plain.bytes - borrowing.bytes == 4 * (weights + 2 * block.kv_heads * block.head_dim)
    assert plain.keys_read == borrowing.keys_read and plain.layers_run == borrowing.layers_run
    assert borrowing.cache.bytes < plain.cache.bytes


@torch.inference_mode()
@pytest.mark.parametrize("eviction", [SnapKV(keep=0.3, window=4), StreamingLLM(window=4)], ids=["snap", "streaming"])
def test_a_layer_is_evicted_from_when_all_have_read_the_prompt(eviction):
    """Its borrowers read the prompt after it, and every token of it sees what it should."""
    model, prompt = tiny("llama"), PROMPT * 2
    policy = eviction.start(Run(model, tuple(prompt), 8, Sampler(), 0))
    decoder = Decoder(model, 8, {"depth": Borrowing(), "evict": policy})
    found = decoder.prefill(prompt, logits="all")
    torch.testing.assert_close(found, expected(model, prompt), rtol=1e-4, atol=1e-4)
    assert 0 < decoder.cache.layers[1].length < len(prompt) and not decoder.cache.layers[2].length
    assert decoder.forward([7]).isfinite().all()


def test_a_layer_without_attention_lends_and_borrows_nothing():
    whole = tiny("llama")
    for gone in (1, 2):
        model = whole.variant(replace={gone: without(whole.anatomy.blocks[gone], attention=True)})
        borrowing, plain = Decoder(model, 8, {"depth": Borrowing()}), Decoder(model, 8)
        assert torch.equal(borrowing.prefill(PROMPT), plain.prefill(PROMPT))
        assert [layer.kept for layer in borrowing.cache.layers] == [layer.kept for layer in plain.cache.layers]
