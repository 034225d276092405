"""A dense model with its MLPs cut into experts, in the stock architecture of Qwen2-MoE.

Source
------
A trained MLP decomposed into many small experts: Lu et al., Dynamic-DINO: Fine-Grained Mixture of Experts Tuning for
Real-time Open-Vocabulary Object Detection, 2025, arXiv 2507.17436; experts of neurons that fire together: Zhang et al.,
MoEfication, 2021, arXiv 2110.01786; an expert that all tokens share: Dai et al., DeepSeekMoE, 2024, arXiv 2401.06066.

Formula
-------
Of an MLP, a sum over neurons, some neurons serve all tokens, ``f0``, and the others are dealt to ``E`` experts, ``f1 …
fE``. A stand-in ``c`` of a few neurons says what is missing where an expert does not run. Where the experts ``S`` run::

    y(x) = f0(x) + sum over e in S of fe(x) + sum over e not in S of ce(x)
         = [f0(x) + sum over all e of ce(x)] + sum over e in S of [fe(x) - ce(x)]

The first bracket is the shared expert, the second a routed one. With all experts on the stand-ins cancel, and ``y`` is
the dense MLP whatever they and the router have learned, up to the order of sums and to the weights that experts count
with: the router's softmax, ``1 / E`` where its logits are zero, which ``E`` times the output weights make up for; the
shared expert counts a half, the sigmoid of zero, which twice the output weights make up for. Both factors are exact
where ``E`` is a power of two. The logits of a trained router are kept small by :data:`ROUTER_SCALE`: they say who comes
first, and move the weights by less than a thousandth.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from workbench.errors import ArtifactError, UnsupportedModel

ROUTER_SCALE = 2.0**-12
"""What a router's logits are multiplied with."""
UNIT = 16.0
"""What the router of a split is stored times: an optimiser that moves all weights alike then moves routers little."""
ALIGNED = 8
"""What the neurons of an expert with its stand-in are a multiple of: torch's product of several experts at once, which
transformers uses, takes rows of whole 16 bytes alone."""


def split(hf: Any, tensors: Mapping[str, Tensor]) -> Any:
    """A Qwen2-MoE model, all of its experts on, that computes what a dense Llama does.

    Attention, norms and embedding are the dense model's own tensors; only the MLPs are laid anew.

    Parameters
    ----------
    hf : transformers.LlamaForCausalLM
    tensors : mapping of str to Tensor
        Of the last layers; those before them stay dense. ``always`` [layers, shared] and ``grouped`` [layers, experts,
        neurons], numbers of neurons; ``router`` [layers, experts, width]; ``stand_gate`` and ``stand_up`` [layers,
        experts, rank, width] and ``stand_down`` [layers, experts, width, rank].

    Raises
    ------
    UnsupportedModel
        If the model is no Llama, or one with biases, for which there is no place.
    ArtifactError
        If the tensors do not fit it.
    """
    config = hf.config
    if config.model_type != "llama" or config.attention_bias or config.mlp_bias:
        raise UnsupportedModel(f"only a Llama without biases can be split into experts, not {config.model_type}")
    check(tensors, config)
    with torch.no_grad():
        state = hf.state_dict()
        dense = config.num_hidden_layers - len(tensors["always"])
        for layer in range(dense, config.num_hidden_layers):
            place = f"model.layers.{layer}.mlp."
            gate, up, down = (state.pop(f"{place}{name}_proj.weight") for name in ("gate", "up", "down"))
            own = {name: tensor[layer - dense].to(gate.device) for name, tensor in tensors.items()}
            state |= {place + name: weight for name, weight in _layer(gate, up, down, own).items()}
        return _with_weights(_empty(hf, tensors), hf, state)


def _layer(gate: Tensor, up: Tensor, down: Tensor, own: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of one sparse block by their names in transformers; see :func:`split`."""
    always, grouped = own["always"].long(), own["grouped"].long()
    experts, rank, width = own["stand_gate"].shape
    stand_gate, stand_up, stand_down = (own[f"stand_{name}"].to(gate) for name in ("gate", "up", "down"))
    columns = down.t()[grouped].transpose(1, 2)
    return {
        "gate.weight": (own["router"].float() * (ROUTER_SCALE / UNIT)).to(gate),
        "experts.gate_up_proj": torch.cat((gate[grouped], stand_gate, up[grouped], stand_up), 1),
        "experts.down_proj": experts * torch.cat((columns, -stand_down), 2),
        "shared_expert.gate_proj.weight": torch.cat((gate[always], stand_gate.reshape(-1, width))),
        "shared_expert.up_proj.weight": torch.cat((up[always], stand_up.reshape(-1, width))),
        "shared_expert.down_proj.weight": 2
        * torch.cat((down[:, always], stand_down.transpose(0, 1).reshape(width, experts * rank)), 1),
        "shared_expert_gate.weight": gate.new_zeros(1, width),
    }


def _empty(hf: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The architecture, without memory."""
    from transformers import AutoModelForCausalLM, Qwen2MoeConfig

    config = hf.config
    experts, rank = tensors["stand_gate"].shape[1:3]
    kept = (
        "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "hidden_act", "max_position_embeddings", "initializer_range", "rms_norm_eps",
        "rope_parameters", "tie_word_embeddings", "bos_token_id", "eos_token_id", "pad_token_id",
    )  # fmt: skip
    made = Qwen2MoeConfig(
        **{name: getattr(config, name) for name in kept},
        num_experts=experts,
        num_experts_per_tok=experts,
        moe_intermediate_size=tensors["grouped"].shape[2] + rank,
        shared_expert_intermediate_size=tensors["always"].shape[1] + experts * rank,
        mlp_only_layers=list(range(config.num_hidden_layers - len(tensors["always"]))),
        norm_topk_prob=False,
        qkv_bias=False,
        router_scale=ROUTER_SCALE,
    )
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(made, dtype=hf.dtype, attn_implementation=config._attn_implementation)


def _with_weights(empty: Any, hf: Any, state: dict[str, Tensor]) -> Any:
    empty.load_state_dict(state, strict=True, assign=True)
    empty.tie_weights()
    rotary = empty.model.rotary_emb
    empty.model.rotary_emb = type(rotary)(empty.config).to(hf.device)  # its tables are in no state
    empty.generation_config = hf.generation_config
    return empty.eval()


def choose(model: Any, experts: int) -> None:
    """Let a :class:`workbench.models.Model` of experts run so many for a token, and its transformers model too."""
    model.hf.config.num_experts_per_tok = experts
    for module in model.hf.modules():
        if hasattr(module, "top_k"):
            module.top_k = experts
    for block in model.anatomy.blocks:
        if block.router is not None:
            block.router.chosen = experts


def check(tensors: Mapping[str, Tensor], config: Any) -> None:
    """Refuse tensors that are not the split of a model of this configuration."""
    width, neurons = config.hidden_size, config.intermediate_size
    due = {"always": 2, "grouped": 3, "router": 3, "stand_gate": 4, "stand_up": 4, "stand_down": 4}
    if {name: tensor.dim() for name, tensor in tensors.items()} != due:
        raise ArtifactError(f"the split has no tensors {', '.join(due)} of {', '.join(map(str, due.values()))} dims")
    layers, experts, rank, _ = tensors["stand_gate"].shape
    if layers > config.num_hidden_layers:
        raise ArtifactError(f"the split is of {layers} layers, and the model has {config.num_hidden_layers}")
    shapes = {
        "always": (layers, tensors["always"].shape[1]),
        "grouped": (layers, experts, tensors["grouped"].shape[2]),
        "router": (layers, experts, width),
        "stand_gate": (layers, experts, rank, width),
        "stand_up": (layers, experts, rank, width),
        "stand_down": (layers, experts, width, rank),
    }
    for name, shape in shapes.items():
        if tuple(tensors[name].shape) != shape:
            raise ArtifactError(f"the split's {name} has shape {list(tensors[name].shape)} where {list(shape)} is due")
    named = torch.cat((tensors["always"], tensors["grouped"].flatten(1)), 1).long().sort(-1).values
    if not torch.equal(named, torch.arange(neurons, device=named.device).expand(layers, -1)):
        raise ArtifactError(f"the split does not name each of the {neurons} neurons of every layer once")
    if experts & (experts - 1):
        raise ArtifactError(f"the split has {experts} experts: only with a power of two is their sum exact")
    if size := (tensors["grouped"].shape[2] + rank) % ALIGNED:
        raise ArtifactError(f"the split's experts are {size} neurons larger than a multiple of {ALIGNED}, see ALIGNED")
