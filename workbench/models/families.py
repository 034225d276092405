"""The table of supported architectures: one row says where a family keeps what.

Adding a family is adding a row. Every path is dotted; paths of a block are relative to that block. The rows are
proven when a model is loaded (:mod:`workbench.models.proof`), so a wrong row is an error at load, not a wrong number.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Family:
    """Where one architecture keeps its parts.

    Attributes
    ----------
    name : str
        ``model_type`` of the Hugging Face configuration.
    title : str
        What people call it.
    embedding, blocks, final_norm : str
        Paths from the causal language model.
    attention : str
        Path of the attention module in a block.
    query_key_value : tuple of str
        Projections: three separate ones, or a single fused one.
    interleaved : bool
        Whether the fused projection holds (query, key, value) head by head (GPT-NeoX) rather than part by part.
    attention_output : str
        Output projection of the attention.
    up, down : tuple of str, str
        Projections of the MLP: ``up`` is (gate, up), one fused gate-and-up, or one plain projection.
    activation : str
        Path of the activation function.
    gated : bool
        Whether the MLP multiplies the activated gate with the up projection.
    attention_norm, mlp_norm : str or None
        Norm of the residual stream before each sublayer.
    attention_post_norm, mlp_post_norm : str or None
        Norm of each sublayer's output before it is added to the residual stream.
    query_norm, key_norm : str or None
        Norms of queries and keys.
    norm_over_all_heads : bool
        Whether those norms see all heads as one vector (OLMo 2, OLMoE) rather than one head at a time.
    rotary : str or None
        Rotary embedding module; None where positions are learned.
    reads_anew : bool
        Whether transformers' generation computes the cache anew where long-rope changes from its short factors to its
        long ones, rather than leaving keys as they were rotated.
    position_embedding : str or None
        Learned position embedding.
    position_offset : int
        What is added to a position before it is looked up.
    parallel_residual : str or None
        Name of the configuration flag that makes both sublayers read the same residual stream.
    window : str or None
        Where the sliding window of a layer stands: in its ``"attention"`` module, in the ``"config"``, or nowhere.
    router, experts : str or None
        Router and experts of a mixture-of-experts block; a block that has neither is dense.
    required : dict
        Configuration values that the family's steps rely on; anything else is refused with its name.
    """

    name: str
    title: str
    embedding: str = "model.embed_tokens"
    blocks: str = "model.layers"
    final_norm: str = "model.norm"
    attention: str = "self_attn"
    query_key_value: tuple[str, ...] = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    interleaved: bool = False
    attention_output: str = "self_attn.o_proj"
    up: tuple[str, ...] = ("mlp.gate_proj", "mlp.up_proj")
    down: str = "mlp.down_proj"
    activation: str = "mlp.act_fn"
    gated: bool = True
    attention_norm: str | None = "input_layernorm"
    mlp_norm: str | None = "post_attention_layernorm"
    attention_post_norm: str | None = None
    mlp_post_norm: str | None = None
    query_norm: str | None = None
    key_norm: str | None = None
    norm_over_all_heads: bool = False
    rotary: str | None = "model.rotary_emb"
    reads_anew: bool = False
    position_embedding: str | None = None
    position_offset: int = 0
    parallel_residual: str | None = None
    window: str | None = None
    router: str | None = None
    experts: str | None = None
    required: tuple[tuple[str, object], ...] = ()


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
    attention_norm=None,
    mlp_norm=None,
    attention_post_norm="post_attention_layernorm",
    mlp_post_norm="post_feedforward_layernorm",
    norm_over_all_heads=True,
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
        replace(
            _QWEN3,
            name="gemma3_text",
            title="Gemma 3",
            attention_post_norm="post_attention_layernorm",
            mlp_norm="pre_feedforward_layernorm",
            mlp_post_norm="post_feedforward_layernorm",
            required=(("attn_logit_softcapping", None), ("use_bidirectional_attention", False)),
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
        _OLMO2,
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
        replace(_QWEN3, name="qwen3_moe", title="Qwen3-MoE", window="config", router="mlp.gate", experts="mlp.experts"),
    )
}
