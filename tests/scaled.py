"""Tiny models whose rotary positions are scaled, and what transformers itself writes with them."""

from __future__ import annotations

import copy
import functools

import torch
from helpers import random_tokens

from workbench.models.load import wrap
from workbench.models.tiny import tiny

OLD = 32
"""Positions before scaling; of long-rope 48, as in its cases."""
SWITCH = 48

_HALF = 4
SCALINGS = {
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": OLD},
    "linear": {"rope_type": "linear", "factor": 2.0},
    "dynamic": {"rope_type": "dynamic", "factor": 2.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 2.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": OLD,
    },
    "longrope": {
        "rope_type": "longrope",
        "original_max_position_embeddings": SWITCH,
    },
}


@functools.cache
def scaled(kind: str, family: str = "llama", layers: int = 2, positions: int = 0, dtype: torch.dtype = torch.float32):
    """``tiny(family)`` with one kind of scaling: 32 positions before it; of long-rope 256 after it, of llama3 64."""
    from transformers import AutoModelForCausalLM

    plain = tiny(family, layers=layers).hf
    config = copy.deepcopy(plain.config)
    config.max_position_embeddings = positions or {"longrope": 256, "llama3": 64}.get(kind, OLD)
    if kind == "longrope":
        config.original_max_position_embeddings = SWITCH
    # Dynamic scaling divides by the rotated dimensions less two.
    share = max(0.5, (plain.config.rope_parameters or {}).get("partial_rotary_factor", 1.0))
    config.rope_parameters = {"rope_theta": 10_000.0, "partial_rotary_factor": share, **SCALINGS[kind]}
    if kind == "longrope":
        half = int(_HALF * share)
        config.rope_parameters |= {"short_factor": [1.0] * half, "long_factor": torch.linspace(1, 4, half).tolist()}
    hf = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
    hf.load_state_dict(plain.state_dict())
    return wrap(hf, None, f"tiny-{family}-{kind}")


@functools.cache
def layered(kind: str):
    """A Gemma 3 of a sliding and a full layer, of which only the full one's table is scaled."""
    from transformers import AutoModelForCausalLM

    plain = tiny("gemma3_text", layers=2).hf
    config = copy.deepcopy(plain.config)
    config.max_position_embeddings = 256
    config.layer_types = ["sliding_attention", "full_attention"]
    scaling = {"factor": 4.0, **SCALINGS[kind]}
    half = {"short_factor": [1.0] * 8, "long_factor": [1.0 + place / 2 for place in range(8)]}
    scaling |= half if kind == "longrope" else {}
    config.rope_parameters = {
        "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
        "full_attention": {"rope_theta": 10_000.0, **scaling},
    }
    hf = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="sdpa")
    hf.load_state_dict(plain.state_dict())
    return wrap(hf, None, f"tiny-gemma3_text-{kind}")


@functools.cache
def expected(model, prompt: tuple[int, ...], new: int) -> list[int]:
    """What ``model.hf.generate`` writes after a prompt, greedily."""
    # Dynamic scaling remembers the longest text it has seen; a short one makes it forget.
    model.hf(torch.tensor([[3]]))
    text = model.hf.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=new,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    return text[0, len(prompt) :].tolist()


def prompt_of(length: int, seed: int = 1) -> tuple[int, ...]:
    """A prompt whose second half repeats the first, so that there is something to look up."""
    half = random_tokens((length + 1) // 2, seed)
    return tuple((half * 2)[:length])
