"""A small recurrent mixer, and a model of which some layers have one."""

import dataclasses
from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar

import torch
from torch import Tensor

from workbench.models.projection import Projection


@dataclass
class GatedLinearAttention:
    """S_t = decay_t * S_(t-1) + k_t v_t^T, o_t = q_t S_t for each head; decay_t = sigmoid(gate_t), one for each key
    dimension. Yang et al., Gated Linear Attention, 2023, arXiv 2312.06635.

    ``maps`` [4 * heads * dim, width] gives queries, keys, values and gates, ``output`` [width, heads * dim].
    """

    heads: int
    dim: int
    maps: Projection
    output: Projection

    recurrent: ClassVar[bool] = True
    rope_kind: ClassVar[None] = None

    @classmethod
    def random(cls, anatomy, seed=0, heads=2, dim=6):
        generator = torch.Generator().manual_seed(seed)
        inner = heads * dim

        def projection(*shape):
            weight = 0.3 * torch.randn(*shape, generator=generator)
            return Projection(weight.to(anatomy.device, anatomy.dtype), None, anatomy.multiply)

        return cls(heads, dim, projection(4 * inner, anatomy.width), projection(anatomy.width, inner))

    def new_state(self):
        return {"memory": self.maps.weight.new_zeros(1, self.heads, self.dim, self.dim)}

    def advance(self, x: Tensor, state) -> Tensor:
        query, key, value, gate = self.maps(x).unflatten(-1, (4, self.heads, self.dim)).unbind(2)
        decay, memory, out = gate.sigmoid(), state.tensors["memory"], []
        for t in range(x.shape[1]):
            memory = decay[:, t, :, :, None] * memory + key[:, t, :, :, None] * value[:, t, :, None]
            out.append((query[:, t, :, None] @ memory).flatten(1))
        state.tensors = {"memory": memory}
        return self.output(torch.stack(out, 1))

    def flops(self, rows):
        # Decay, outer product and its sum, and reading: each once for every element of the memory.
        return self.maps.flops(rows) + self.output.flops(rows) + 5 * rows * self.heads * self.dim**2

    def bytes(self, rows):
        return self.maps.bytes(rows) + self.output.bytes(rows)


def with_recurrent_layers(model, layers=(1, 2)):
    """A variant of ``model`` whose layers named have a toy mixer in the place of their attention."""
    blocks = model.anatomy.blocks
    made = {i: dataclasses.replace(blocks[i], mixer=GatedLinearAttention.random(model.anatomy, i)) for i in layers}
    return model.variant(replace=made, name=f"{model.name} recurrent")


def new_state(mixer):
    """A state as a mixer asks for it, and no more."""
    return SimpleNamespace(tensors=mixer.new_state())
