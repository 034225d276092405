"""Counted operations against torch's own counter, and bytes against what is there."""

from itertools import pairwise

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from workbench.engine import Decoder, generate
from workbench.models.families import FAMILIES
from workbench.models.tiny import tiny
from workbench.techniques import UnifiedLayerSkip


def _counted(model, tokens):
    """What torch counts for a forward of the transformers model; it sees attention only where it is written out."""
    own = model.hf.config._attn_implementation
    model.hf.set_attn_implementation("eager")
    try:
        with FlopCounterMode(display=False) as counter:
            model.hf(torch.tensor([tokens]))
    finally:
        model.hf.set_attn_implementation(own)
    return counter.get_total_flops()


@pytest.mark.parametrize("family", [name for name, row in FAMILIES.items() if row.experts is None])
def test_flops_of_a_forward_are_those_that_torch_counts(family):
    model, tokens = tiny(family), list(range(3, 9))
    decoder = Decoder(model)
    decoder.prefill(tokens, logits="all")
    # Torch counts attention over the whole square; here each query reads only the keys it may see.
    block = model.anatomy.blocks[0]
    square = 4 * len(tokens) ** 2 * block.heads * block.head_dim * model.layers
    ours_attention = 4 * len(tokens) * (len(tokens) + 1) // 2 * block.heads * block.head_dim * model.layers
    assert decoder.flops - ours_attention == _counted(model, tokens) - square


def test_decode_flops_grow_by_one_key_for_each_token():
    model = tiny("llama")
    steps = list(generate(model, list(range(3, 13)), max_new_tokens=5, stop_tokens=()))[1:]
    block = model.anatomy.blocks[0]
    growth = 4 * block.heads * block.head_dim * model.layers
    assert {b.flops - a.flops for a, b in pairwise(steps)} == {growth}
    assert [step.keys_read[0] for step in steps] == [11, 12, 13, 14]


def test_bytes_of_a_decode_step_are_weights_cache_and_unembedding():
    model = tiny("llama")
    step = list(generate(model, list(range(3, 13)), max_new_tokens=2, stop_tokens=()))[1]
    projections = sum(
        parameter.numel() for name, parameter in model.hf.named_parameters() if "proj" in name or "lm_head" in name
    )
    block = model.anatomy.blocks[0]
    cache = model.layers * 2 * (11 + 1) * block.kv_heads * block.head_dim
    assert step.bytes == 4 * (projections + cache)


def test_a_skipped_layer_costs_nothing():
    model, prompt = tiny("llama"), list(range(3, 13))
    whole = list(generate(model, prompt, max_new_tokens=3, stop_tokens=()))[1]
    half = list(generate(model, prompt, [UnifiedLayerSkip(speedup=2.0)], max_new_tokens=3, stop_tokens=()))[1]
    unembedding = 2 * model.anatomy.unembedding.numel()
    assert half.layers == (0, 3)
    assert (half.flops - unembedding) * 2 == whole.flops - unembedding


def test_experts_that_run_are_counted():
    model = tiny("mixtral")
    step = list(generate(model, list(range(3, 13)), max_new_tokens=2, stop_tokens=()))[1]
    assert step.experts == (2,) * model.layers
    dense = tiny("qwen3_moe")
    assert len(list(generate(dense, list(range(3, 13)), max_new_tokens=2, stop_tokens=()))[1].experts) == 3


def test_a_shared_expert_is_counted_for_every_token_and_its_layer():
    model, tokens = tiny("qwen2_moe"), list(range(3, 9))
    decoder = Decoder(model)
    decoder.prefill(tokens, logits="all")
    numbers = {name: parameter.numel() for name, parameter in model.hf.named_parameters()}
    always = sum(
        count
        for name, count in numbers.items()
        if name.endswith("weight") and "norm" not in name and "embed_tokens" not in name and ".experts." not in name
    )
    chosen = 3 * 2 * 3 * 24 * 32  # sparse layers, experts of a token, matrices, their sizes
    keys = sum(range(1, len(tokens) + 1)) * 4 * 8
    assert sum("shared_expert" in name for name in numbers) == 3 * 4
    assert decoder.flops == 2 * len(tokens) * (always + chosen) + 4 * model.layers * keys
