"""One row of the table of supported architectures: where a family keeps what."""

from __future__ import annotations

from dataclasses import dataclass


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
    norm_weight : {"plain", "late", "one_plus"}
        How a root-mean-square norm's weight enters: after the result is cast back (Llama), before it (OLMo 2), or
        before it and as ``1 + weight`` (Gemma).
    norm_over_all_heads : bool
        Whether those norms see all heads as one vector (OLMo 2, OLMoE) rather than one head at a time.
    rotary : str or None
        Rotary embedding module; None where positions are learned.
    rotary_pairs : bool
        Whether the dimensions that turn together are neighbours (GLM) rather than half the rotated width apart.
    rotary_half : bool
        Whether the rotary embedding gives its tables for the first half alone (GPT-OSS).
    unrotated : str or None
        Configuration value with a 0 for every layer that does without positions (SmolLM3).
    reads_anew : bool
        Whether transformers' generation computes the cache anew where long-rope changes from its short factors to its
        long ones, rather than leaving keys as they were rotated.
    position_embedding : str or None
        Learned position embedding.
    position_offset : int
        What is added to a position before it is looked up.
    parallel_residual : bool or str
        Whether both sublayers read the same residual stream, or the name of the configuration flag that says so.
    window : str or None
        Where the sliding window of a layer stands: in its ``"attention"`` module, in the ``"config"``, or nowhere.
    attention_softcap : str or None
        Configuration value that caps attention scores (Gemma 2).
    sinks : str or None
        Learned score of every head that stands beside those of the keys (GPT-OSS).
    router, experts : str or None
        Router and experts of a mixture-of-experts block; a block that has neither is dense.
    shared_expert, shared_expert_gate : str or None
        MLP that every token goes through beside its experts, with ``gate_proj``, ``up_proj`` and ``down_proj``, and
        the projection whose sigmoid it is multiplied with (Qwen2-MoE).
    experts_by_column : bool
        Whether experts are stored [in, out], with biases and gate and up in turn, and clamped (GPT-OSS).
    embedding_multiplier, residual_multiplier, logits_divisor : str or None
        Configuration values that the embedding and what every sublayer adds are multiplied with, and that the logits
        are divided by (Granite).
    required : dict
        Configuration values that the family's steps rely on, one or a tuple of several; anything else is refused with
        its name.
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
    norm_weight: str = "plain"
    norm_over_all_heads: bool = False
    rotary: str | None = "model.rotary_emb"
    rotary_pairs: bool = False
    rotary_half: bool = False
    unrotated: str | None = None
    reads_anew: bool = False
    position_embedding: str | None = None
    position_offset: int = 0
    parallel_residual: bool | str = False
    window: str | None = None
    attention_softcap: str | None = None
    sinks: str | None = None
    router: str | None = None
    experts: str | None = None
    shared_expert: str | None = None
    shared_expert_gate: str | None = None
    experts_by_column: bool = False
    embedding_multiplier: str | None = None
    residual_multiplier: str | None = None
    logits_divisor: str | None = None
    required: tuple[tuple[str, object], ...] = ()
