"""The blocks in a row give what the transformers model gives, and say where they are."""

import pytest
import torch

from workbench.models.attention import attention_rows
from workbench.models.tiny import tiny
from workbench.models.walk import walk

TOKENS = [[3, 14, 15, 9, 26, 5]]


def causal(block, query, key, value):
    rows = attention_rows(query, key, block.scoring, block.window)
    return rows.to(value.dtype) @ value.repeat_interleave(block.heads // block.kv_heads, 1)


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt2", "gpt_neox", "mixtral"])
def test_a_walk_over_all_blocks_is_the_model_and_over_some_a_stretch_of_it(family):
    model, seen = tiny(family), {}
    anatomy, positions = model.anatomy, torch.arange(6)
    with torch.inference_mode():
        x, ropes = anatomy.embed(torch.tensor(TOKENS), positions), anatomy.rope(positions)
        out = walk(anatomy.blocks, x, ropes, causal, lambda layer, stream: seen.update({layer: stream}))
        expected = model.hf(torch.tensor(TOKENS), use_cache=False).logits
        torch.testing.assert_close(anatomy.unembed(out), expected, rtol=2e-4, atol=2e-4)
        assert list(seen) == list(range(model.layers)) and torch.equal(seen[0], x)
        assert torch.equal(walk(anatomy.blocks[1:3], seen[1], ropes, causal), seen[3])


def test_a_walk_has_a_gradient():
    anatomy, positions = tiny("llama").anatomy, torch.arange(6)
    x = anatomy.embed(torch.tensor(TOKENS), positions).detach().requires_grad_()
    walk(anatomy.blocks, x, anatomy.rope(positions), causal)[0, 2].sum().backward()
    assert x.grad[0, :3].abs().sum(1).gt(0).all() and not x.grad[0, 3:].any()


def test_a_recurrent_block_goes_through_the_text_from_an_empty_state():
    from toys.recurrent import with_recurrent_layers

    from workbench.engine import Decoder

    model = with_recurrent_layers(tiny("llama"))
    anatomy, positions = model.anatomy, torch.arange(6)
    decoder = Decoder(model)
    decoder.prefill(TOKENS[0])
    with torch.inference_mode():
        x = walk(anatomy.blocks, anatomy.embed(torch.tensor(TOKENS), positions), anatomy.rope(positions), causal)
    torch.testing.assert_close(x[0], decoder.hidden, rtol=1e-4, atol=1e-4)
