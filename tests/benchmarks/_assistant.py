"""The trained draft model as one of transformers, so that both sides of a comparison draft with the same weights."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workbench.models import Model


class SmallHead(nn.Module):
    """Logits of the draft vocabulary, and of every other token a number that is never chosen."""

    def __init__(self, weight: Tensor, vocabulary: Tensor, size: int) -> None:
        super().__init__()
        self.weight, self._ids, self._size = nn.Parameter(weight), vocabulary, size

    def forward(self, x: Tensor) -> Tensor:
        out = x.new_full((*x.shape[:-1], self._size), -1e4)
        out[..., self._ids] = F.linear(x, self.weight)
        return out


@torch.no_grad()
def as_transformers(main: Model, draft: Model) -> nn.Module:
    """A Llama of transformers with the weights of ``draft``, the distilled draft model of ``main``."""
    config = copy.deepcopy(main.hf.config)
    config.num_hidden_layers, config.tie_word_embeddings = len(draft.anatomy.blocks), False
    config.layer_types = None
    made = type(main.hf)(config).to(main.device, main.dtype).eval()
    made.generation_config = copy.deepcopy(main.hf.generation_config)
    made.model.embed_tokens.weight.copy_(main.hf.model.embed_tokens.weight)
    made.model.norm.weight.copy_(draft.anatomy.final_norm.weight)
    for block, layer in zip(draft.anatomy.blocks, made.model.layers):
        queries, keys = block.heads * block.head_dim, block.kv_heads * block.head_dim
        query, key, value = block.query_key_value.weight.split((queries, keys, keys))
        gate, up = block.up.weight.chunk(2)
        for to, weight in (
            (layer.self_attn.q_proj, query),
            (layer.self_attn.k_proj, key),
            (layer.self_attn.v_proj, value),
            (layer.self_attn.o_proj, block.attention_output.weight),
            (layer.mlp.gate_proj, gate),
            (layer.mlp.up_proj, up),
            (layer.mlp.down_proj, block.down.weight),
            (layer.input_layernorm, block.attention_norm.weight),
            (layer.post_attention_layernorm, block.mlp_norm.weight),
        ):
            to.weight.copy_(weight)
    made.lm_head = SmallHead(draft.anatomy.unembedding, draft.draft_vocabulary, main.anatomy.vocabulary)
    return made
