"""Tiny random models of every supported family, built in memory in milliseconds; for tests and matrices of pairs."""

from __future__ import annotations

import functools
from typing import Any

import torch

from workbench.errors import UnsupportedModel
from workbench.models.families import FAMILIES
from workbench.models.load import wrap
from workbench.models.model import Model

_SIZES: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_EXPERTS = {"num_experts": 8, "num_local_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
_YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64}
# What makes each family what it is, small enough to matter in a few tokens.
_SPECIAL: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 256, "n_inner": 48},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "gemma": {"head_dim": 16},
    "gemma2": {
        "head_dim": 16,
        "sliding_window": 8,
        "query_pre_attn_scalar": 16,
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 4.0,
    },
    "gemma3_text": {"head_dim": 16, "sliding_window": 8, "query_pre_attn_scalar": 16, "sliding_window_pattern": 2},
    "mistral": {"sliding_window": 16},
    "qwen2": {"use_sliding_window": True, "sliding_window": 12, "max_window_layers": 2},
    "qwen3": {"head_dim": 16},
    "phi": {"partial_rotary_factor": 0.5},
    "phi3": {"sliding_window": 14, "partial_rotary_factor": 0.5},
    "stablelm": {"use_qkv_bias": True, "partial_rotary_factor": 0.5},
    "starcoder2": {"sliding_window": 14},
    "smollm3": {"no_rope_layer_interval": 3},
    "granite": {
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.6,
        "attention_multiplier": 0.5,
        "logits_scaling": 1.7,
    },
    "glm": {"head_dim": 16, "attention_bias": True},
    "glm4": {"head_dim": 16, "attention_bias": True},
    "olmo3": {
        "sliding_window": 9,
        "rope_parameters": {"sliding_attention": {"rope_type": "default", "rope_theta": 1e4}, "full_attention": _YARN},
    },
    "mixtral": _EXPERTS,
    "olmoe": _EXPERTS,
    "qwen2_moe": {**_EXPERTS, "shared_expert_intermediate_size": 40, "mlp_only_layers": [2]},
    "qwen3_moe": {**_EXPERTS, "head_dim": 16, "mlp_only_layers": [1], "norm_topk_prob": True},
    "gpt_oss": {
        **_EXPERTS,
        "num_experts_per_tok": 4,
        "head_dim": 16,
        "sliding_window": 8,
        "swiglu_limit": 0.5,
        "rope_parameters": _YARN,
    },
}


@functools.cache
@torch.inference_mode(mode=False)  # whoever asks first, others may train it
def tiny(
    family: str, seed: int = 0, layers: int = 4, dtype: torch.dtype = torch.float32, vocabulary: int = 96
) -> Model:
    """A random model of ``family`` with width 32 and 4 heads, without a tokenizer.

    Parameters
    ----------
    family : str
        Key of :data:`workbench.models.families.FAMILIES`.
    seed : int
        Of its weights.
    layers : int
    dtype : torch.dtype
    vocabulary : int
        Tokens, at least 3.

    Notes
    -----
    The same arguments give the same object. Weights are drawn wide enough that layers and attention matter, and norms
    and biases differ from one and zero: at the usual initialisation a tiny model repeats one token, one norm stands for
    another, and tests would see nothing.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    if family not in FAMILIES:
        raise UnsupportedModel(f"family {family!r} is not in the table: {', '.join(FAMILIES)}")
    sizes = {**_SIZES, **_SPECIAL.get(family, {}), "num_hidden_layers": layers, "vocab_size": vocabulary}
    if family == "gpt2":
        sizes |= {"n_layer": layers}
        for name in ("num_hidden_layers", "hidden_size", "num_attention_heads", "max_position_embeddings"):
            sizes.pop(name)
    config = AutoConfig.for_model(family, **sizes)
    generator_state = torch.get_rng_state()
    torch.manual_seed(seed)
    try:
        hf = AutoModelForCausalLM.from_config(config, dtype=dtype)
        for name, parameter in hf.named_parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.4 if "embed" in name or "wte" in name else 0.25)
            else:
                with torch.no_grad():
                    parameter.add_(0.15 * torch.randn_like(parameter))
    finally:
        torch.set_rng_state(generator_state)
    return wrap(hf, None, f"tiny-{family}", f"seed {seed}")
