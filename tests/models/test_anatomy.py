"""Every family's steps are the model's own, and a wrong row of the table is caught at load."""

import dataclasses

import pytest
import torch

from workbench.errors import UnsupportedModel
from workbench.models.anatomy import Anatomy
from workbench.models.attention import attention_rows
from workbench.models.families import FAMILIES
from workbench.models.tiny import tiny
from workbench.models.verification import verify


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_proven(family):
    proof = tiny(family).proof
    assert proof["logits"] < 1e-4 and proof["attention_row_sum"] < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_residual_stream_of_every_layer_is_the_models_own(family):
    model = tiny(family)
    tokens = torch.arange(3, 15)[None]
    positions = torch.arange(12)
    hidden = model.hf(tokens, output_hidden_states=True).hidden_states
    x = model.anatomy.embed(tokens, positions)
    ropes = model.anatomy.rope(positions)
    torch.testing.assert_close(x, hidden[0])
    for block in model.anatomy.blocks[:-1]:
        query, key, value = block.enter(x, ropes.get(block.rope_kind))
        rows = attention_rows(query, key, block.scoring, block.window)
        x = block.leave(x, rows @ value.repeat_interleave(block.heads // block.kv_heads, 1))
        torch.testing.assert_close(x, hidden[block.index + 1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("family", "wrong"),
    [
        ("llama", {"mlp_norm": "input_layernorm"}),
        ("qwen3", {"query_norm": None, "key_norm": None}),
        ("olmo2", {"attention_post_norm": None}),
        ("gpt_neox", {"interleaved": False}),
        ("gpt_neox", {"parallel_residual": None}),
        ("opt", {"position_offset": 0}),
        ("gemma3_text", {"window": None}),
        ("gemma2", {"attention_softcap": None}),
        ("gemma2", {"window": None}),
        ("qwen2", {"window": None}),
        ("phi3", {"window": None}),
        ("smollm3", {"unrotated": None}),
        ("granite", {"embedding_multiplier": None}),
        ("granite", {"residual_multiplier": None}),
        ("granite", {"logits_divisor": None}),
        ("glm", {"rotary_pairs": False}),
        ("glm4", {"attention_post_norm": None}),
        ("glm4", {"mlp_post_norm": None}),
        ("phi", {"parallel_residual": False}),
        ("gemma", {"norm_weight": "late"}),
        ("starcoder2", {"window": None}),
        ("olmo3", {"window": None}),
        ("olmo3", {"attention_post_norm": None}),
        ("qwen2_moe", {"shared_expert": None}),
        ("qwen2_moe", {"shared_expert_gate": None}),
        ("gpt_oss", {"sinks": None}),
        ("gpt_oss", {"window": None}),
    ],
)
def test_a_wrong_row_does_not_pass_the_proof(family, wrong, monkeypatch):
    """So each tiny model has what makes its family, and what the row says of it is needed."""
    hf = tiny(family).hf
    monkeypatch.setitem(FAMILIES, family, dataclasses.replace(FAMILIES[family], **wrong))
    with pytest.raises(UnsupportedModel):
        verify(hf, Anatomy(hf))


def test_an_unknown_family_is_refused_and_the_known_ones_are_named():
    from transformers import BloomConfig, BloomForCausalLM

    hf = BloomForCausalLM(BloomConfig(vocab_size=20, hidden_size=8, n_layer=1, n_head=2))
    with pytest.raises(UnsupportedModel, match=r"bloom.*Llama.*OLMoE"):
        Anatomy(hf)


def test_an_option_without_support_is_refused(monkeypatch):
    hf = tiny("opt").hf
    monkeypatch.setattr(hf.config, "do_layer_norm_before", False)
    with pytest.raises(UnsupportedModel, match="do_layer_norm_before"):
        Anatomy(hf)


@pytest.mark.parametrize("family", FAMILIES)
def test_joined_projections_share_the_memory_of_the_models_own(family):
    model = tiny(family)
    storages = {parameter.untyped_storage().data_ptr() for parameter in model.hf.parameters()}
    for block in model.anatomy.blocks:
        assert block.query_key_value.weight.untyped_storage().data_ptr() in storages
        if block.up is not None:
            assert block.up.weight.untyped_storage().data_ptr() in storages


def test_rotary_tables_grow_with_the_positions_asked():
    anatomy = tiny("llama").anatomy
    near, far = anatomy.rope(torch.tensor([5])), anatomy.rope(torch.tensor([5, 5000]))
    torch.testing.assert_close(near["all"][0][0], far["all"][0][0])


def test_experts_agree_with_the_models_own_choice():
    model = tiny("qwen3_moe")
    assert [block.router is None for block in model.anatomy.blocks] == [False, True, False, False]
    block = model.anatomy.blocks[0]
    logits = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    weights, indices = block.route(logits)
    _, expected_weights, expected_indices = model.hf.model.layers[0].mlp.gate(
        logits @ torch.linalg.pinv(block.router.scores.weight.T)
    )
    assert torch.equal(indices, expected_indices)
    torch.testing.assert_close(weights, expected_weights, rtol=1e-3, atol=1e-4)


def test_layers_are_of_both_kinds_where_a_family_has_two():
    for family in ("gemma2", "gemma3_text", "gpt_oss", "olmo3", "qwen2"):
        windows = [block.window is None for block in tiny(family).anatomy.blocks]
        assert any(windows) and not all(windows), family
    assert [block.rope_kind for block in tiny("smollm3").anatomy.blocks] == ["all", "all", None, "all"]
    kinds = {block.rope_kind for block in tiny("gemma3_text").anatomy.blocks}
    assert kinds == {"sliding_attention", "full_attention"}


def test_transformers_attends_in_its_fast_way_wherever_that_is_right():
    plain = {family for family in FAMILIES if tiny(family).hf.config._attn_implementation == "sdpa"}
    assert set(FAMILIES) - plain == {"gemma2", "gpt_oss"}


def test_stored_experts_are_views_of_the_ones_that_run():
    model = tiny("gpt_oss")
    for block, layer in zip(model.anatomy.blocks, model.hf.model.layers):
        for name in ("gate_up", "down"):
            parameter = getattr(layer.mlp.experts, f"{name}_proj")
            bias = getattr(layer.mlp.experts, f"{name}_proj_bias")
            assert len(block.router.experts) == len(parameter) == 8
            for expert, stored, added in zip(block.router.experts, parameter, bias):
                ours = getattr(expert, name)
                assert ours.weight.is_contiguous() and ours.weight.data_ptr() == stored.data_ptr()
                assert torch.equal(stored, ours.weight.T)
                assert ours.bias.data_ptr() == added.data_ptr() and torch.equal(ours.bias, added)


def test_a_soft_cap_that_transformers_passes_over_is_refused(monkeypatch):
    hf = tiny("gemma3_text").hf
    monkeypatch.setattr(hf.config, "attn_logit_softcapping", 50.0)
    with pytest.raises(UnsupportedModel, match=r"attn_logit_softcapping=50\.0 is not supported"):
        Anatomy(hf)
