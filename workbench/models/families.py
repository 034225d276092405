"""The table of supported architectures: one row says where a family keeps what.

Adding a family is adding a row. Every path is dotted; paths of a block are relative to that block. The rows are
verified when a model is loaded (:mod:`workbench.models.verification`): a wrong row is an error, no wrong number.
"""

from __future__ import annotations

from dataclasses import replace

from workbench.models.family import Family

_LLAMA = Family("llama", "Llama (SmolLM)")
_QWEN3 = replace(
    _LLAMA,
    name="qwen3",
    title="Qwen3",
    window="attention",
    query_norm="self_attn.q_norm",
    key_norm="self_attn.k_norm",
)
_OLMO2 = replace(
    _QWEN3,
    name="olmo2",
    title="OLMo 2",
    window=None,
    norm_weight="late",
    attention_norm=None,
    mlp_norm=None,
    attention_post_norm="post_attention_layernorm",
    mlp_post_norm="post_feedforward_layernorm",
    norm_over_all_heads=True,
)
_GEMMA2 = replace(
    _LLAMA,
    name="gemma2",
    title="Gemma 2",
    window="attention",
    norm_weight="one_plus",
    attention_post_norm="post_attention_layernorm",
    mlp_norm="pre_feedforward_layernorm",
    mlp_post_norm="post_feedforward_layernorm",
    attention_softcap="attn_logit_softcapping",
    required=(("use_bidirectional_attention", (None, False)),),
)
_GLM = replace(
    _LLAMA, name="glm", title="GLM", rotary_pairs=True, up=("mlp.gate_up_proj",), activation="mlp.activation_fn"
)
_GPT2 = Family(
    "gpt2",
    "GPT-2",
    embedding="transformer.wte",
    blocks="transformer.h",
    final_norm="transformer.ln_f",
    attention="attn",
    query_key_value=("attn.c_attn",),
    attention_output="attn.c_proj",
    up=("mlp.c_fc",),
    down="mlp.c_proj",
    activation="mlp.act",
    gated=False,
    attention_norm="ln_1",
    mlp_norm="ln_2",
    rotary=None,
    position_embedding="transformer.wpe",
    required=(("add_cross_attention", False),),
)

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        _LLAMA,
        replace(_LLAMA, name="mistral", title="Mistral", window="config"),
        replace(_LLAMA, name="qwen2", title="Qwen2", window="attention"),
        _QWEN3,
        replace(_LLAMA, name="gemma", title="Gemma", norm_weight="one_plus"),
        _GEMMA2,
        replace(
            _GEMMA2,
            name="gemma3_text",
            title="Gemma 3",
            query_norm="self_attn.q_norm",
            key_norm="self_attn.k_norm",
            attention_softcap=None,
            required=(("attn_logit_softcapping", None), *_GEMMA2.required),
        ),
        replace(_LLAMA, name="smollm3", title="SmolLM3", window="attention", unrotated="no_rope_layers"),
        replace(
            _LLAMA,
            name="granite",
            title="Granite",
            embedding_multiplier="embedding_multiplier",
            residual_multiplier="residual_multiplier",
            logits_divisor="logits_scaling",
        ),
        _GLM,
        replace(
            _GLM,
            name="glm4",
            title="GLM-4",
            attention_post_norm="post_self_attn_layernorm",
            mlp_post_norm="post_mlp_layernorm",
        ),
        _GPT2,
        Family(
            "gpt_neox",
            "GPT-NeoX (Pythia)",
            embedding="gpt_neox.embed_in",
            blocks="gpt_neox.layers",
            final_norm="gpt_neox.final_layer_norm",
            attention="attention",
            query_key_value=("attention.query_key_value",),
            interleaved=True,
            attention_output="attention.dense",
            up=("mlp.dense_h_to_4h",),
            down="mlp.dense_4h_to_h",
            activation="mlp.act",
            gated=False,
            rotary="gpt_neox.rotary_emb",
            parallel_residual="use_parallel_residual",
        ),
        Family(
            "opt",
            "OPT",
            embedding="model.decoder.embed_tokens",
            blocks="model.decoder.layers",
            final_norm="model.decoder.final_layer_norm",
            attention_output="self_attn.out_proj",
            up=("fc1",),
            down="fc2",
            activation="activation_fn",
            gated=False,
            attention_norm="self_attn_layer_norm",
            mlp_norm="final_layer_norm",
            rotary=None,
            position_embedding="model.decoder.embed_positions",
            position_offset=2,
            required=(("do_layer_norm_before", True), ("_remove_final_layer_norm", False)),
        ),
        replace(
            _LLAMA,
            name="phi3",
            title="Phi-3",
            window="config",
            reads_anew=True,
            query_key_value=("self_attn.qkv_proj",),
            up=("mlp.gate_up_proj",),
            activation="mlp.activation_fn",
        ),
        replace(
            _LLAMA,
            name="phi",
            title="Phi",
            final_norm="model.final_layernorm",
            attention_output="self_attn.dense",
            up=("mlp.fc1",),
            down="mlp.fc2",
            activation="mlp.activation_fn",
            gated=False,
            mlp_norm="input_layernorm",
            parallel_residual=True,
            required=(("qk_layernorm", False),),
        ),
        replace(
            _LLAMA,
            name="stablelm",
            title="StableLM",
            required=(("use_parallel_residual", False), ("qk_layernorm", False)),
        ),
        replace(
            _LLAMA,
            name="starcoder2",
            title="StarCoder2",
            window="config",
            up=("mlp.c_fc",),
            down="mlp.c_proj",
            activation="mlp.act",
            gated=False,
        ),
        _OLMO2,
        replace(_OLMO2, name="olmo3", title="OLMo 3", window="attention"),
        replace(_LLAMA, name="mixtral", title="Mixtral", window="config", router="mlp.gate", experts="mlp.experts"),
        replace(
            _QWEN3,
            name="olmoe",
            title="OLMoE",
            window=None,
            norm_over_all_heads=True,
            router="mlp.gate",
            experts="mlp.experts",
            required=(("clip_qkv", None),),
        ),
        replace(
            _LLAMA,
            name="qwen2_moe",
            title="Qwen2-MoE",
            window="attention",
            router="mlp.gate",
            experts="mlp.experts",
            shared_expert="mlp.shared_expert",
            shared_expert_gate="mlp.shared_expert_gate",
        ),
        replace(_QWEN3, name="qwen3_moe", title="Qwen3-MoE", window="config", router="mlp.gate", experts="mlp.experts"),
        replace(
            _LLAMA,
            name="gpt_oss",
            title="GPT-OSS",
            window="attention",
            norm_weight="late",
            rotary_half=True,
            sinks="self_attn.sinks",
            router="mlp.router",
            experts="mlp.experts",
            experts_by_column=True,
        ),
    )
}


def unknown_family(kind: str) -> str:
    """What is said of a family that has no row in the table."""
    known = ", ".join(f"{row.title} ({row.name})" for row in FAMILIES.values())
    return f"model type {kind!r} is not supported; supported are: {known}"
