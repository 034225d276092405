"""Mixers: attention is what the block's own steps were, and a recurrent one stands in its place."""

import dataclasses

import pytest
import torch
from toys.recurrent import GatedLinearAttention, new_state, with_recurrent_layers

from workbench.engine.block_cost import block_cost
from workbench.models import FAMILIES, fingerprint
from workbench.models.mixers import Attention, RecurrentMixer
from workbench.models.tiny import tiny
from workbench.models.variant import named_weights


@pytest.fixture
def x():
    return torch.randn(1, 11, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_block_says_what_its_attention_says(family, x):
    for block in tiny(family).anatomy.blocks:
        mixer = block.mixer
        assert isinstance(mixer, Attention) and not mixer.recurrent
        assert (block.heads, block.kv_heads, block.head_dim) == (mixer.heads, mixer.kv_heads, mixer.head_dim)
        assert block.window == mixer.window and block.rope_kind == mixer.rope_kind
        assert block.scoring is mixer.scoring and block.scale == mixer.scoring.scale
        assert block.query_key_value is mixer.query_key_value and block.attention_output is mixer.attention_output
        normed = x if block.attention_norm is None else block.attention_norm(x)
        for one, other in zip(block.enter(x, None), mixer.enter(normed, None)):
            assert torch.equal(one, other)
        attended = block.enter(x, None)[0]
        mixed = block.attention_sublayer(attended)
        assert torch.equal(block.leave(x, attended), block.add(x, mixed))


def test_the_toy_is_its_formula(x):
    mixer = GatedLinearAttention.random(tiny("llama").anatomy)
    assert isinstance(mixer, RecurrentMixer)
    out, state = mixer.advance(x, at := new_state(mixer)), at.tensors["memory"][0]
    maps, inner = mixer.maps.weight.double(), mixer.heads * mixer.dim
    memory = torch.zeros(mixer.heads, mixer.dim, mixer.dim).double()
    for t, row in enumerate(x[0].double()):
        query, key, value, gate = (each.view(mixer.heads, mixer.dim) for each in (maps @ row).split(inner))
        read = []
        for head in range(mixer.heads):
            memory[head] = gate[head].sigmoid()[:, None] * memory[head] + torch.outer(key[head], value[head])
            read.append(query[head] @ memory[head])
        expected = mixer.output.weight.double() @ torch.cat(read)
        torch.testing.assert_close(out[0, t].double(), expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(state.double(), memory, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", ["llama", "olmo2", "gemma2", "granite"])
def test_a_recurrent_sublayer_has_the_blocks_norms_and_multiplier(family, x):
    model = tiny(family)
    block = with_recurrent_layers(model).anatomy.blocks[1]
    normed = x if block.attention_norm is None else block.attention_norm(x)
    expected = block.mixer.advance(normed, new_state(block.mixer))
    expected = expected if block.attention_post_norm is None else block.attention_post_norm(expected)
    mixed = block.advance(x, new_state(block.mixer))
    assert torch.equal(mixed, expected * block.residual_multiplier)
    seen = {}
    after = block.add(x, mixed, seen.__setitem__)
    assert torch.equal(seen["attention_output"], mixed)
    assert torch.equal(after, x + mixed + seen["mlp_output"])


@pytest.mark.parametrize("sizes", [(11,), (1,) * 11, (4, 4, 3), (1, 10)])
def test_chunks_and_single_tokens_leave_the_state_and_rows_of_one_pass(sizes, x):
    block = with_recurrent_layers(tiny("llama")).anatomy.blocks[2]
    whole, once = new_state(block.mixer), new_state(block.mixer)
    expected = block.advance(x, whole)
    parts = torch.cat([block.advance(part, once) for part in x.split(sizes, 1)], 1)
    torch.testing.assert_close(parts, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(once.tensors, whole.tensors, atol=1e-5, rtol=1e-4)


def test_a_snapshot_keeps_its_tensors(x):
    block = with_recurrent_layers(tiny("llama")).anatomy.blocks[1]
    state = new_state(block.mixer)
    block.advance(x[:, :4], state)
    held = dict(state.tensors)
    before = held["memory"].clone()
    block.advance(x[:, 4:], state)
    assert torch.equal(held["memory"], before) and not torch.equal(state.tensors["memory"], before)


def test_the_model_it_was_put_into_is_as_it_was_and_a_view_knows_its_weights():
    model = tiny("llama")
    view = with_recurrent_layers(model)
    assert [block.mixer.recurrent for block in view.anatomy.blocks] == [False, True, True, False]
    assert not any(block.mixer.recurrent for block in model.anatomy.blocks)
    assert "layers.1.maps.weight" in named_weights(view.anatomy)
    assert view.variant(device="meta").anatomy.blocks[1].mixer.output.weight.device.type == "meta"
    assert fingerprint.of_model(view) != fingerprint.of_model(model)
    assert view.anatomy.rope(torch.arange(3)).keys() == {"all"}


def test_it_has_no_keys_to_count():
    block = with_recurrent_layers(tiny("llama")).anatomy.blocks[1]
    cost = block_cost(block)
    assert cost.flops(3, keys_read=0) == cost.flops(3, keys_read=99) == block.flops(3)
    assert cost.bytes(3, keys_touched=99) == block.bytes(3)
    others = dataclasses.replace(block, mixer=tiny("llama").anatomy.blocks[1].mixer)
    assert block.flops(3) - block.mixer.flops(3) == others.flops(3) - others.mixer.flops(3)
