"""One decoder block as the few steps that the engine, the techniques and the probes share.

``enter`` gives queries, keys and values from the residual stream; attention itself is the engine's; ``leave`` adds both
sublayers back to the residual stream. Every supported family runs through these same steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from workbench.models.activation import Activation, ClampedSwiglu
from workbench.models.attention import Scoring
from workbench.models.experts import Router, SharedExpert, apply_experts
from workbench.models.multiply import Multiply
from workbench.models.neurons import some_neurons
from workbench_kernels.arithmetic import computes
from workbench_kernels.rms_norm import rms_norm


@dataclass
class Norm:
    """A root-mean-square or layer norm.

    Attributes
    ----------
    kind : {"rms", "layer"}
    weight : Tensor [width]
        For Gemma already ``1 + weight``, in float32.
    bias : Tensor [width] or None
    eps : float
    late_cast : bool
        Whether the weight multiplies before the result is cast back (Gemma) or after (Llama).
    """

    kind: str
    weight: Tensor | None
    bias: Tensor | None
    eps: float
    late_cast: bool = False

    def __call__(self, x: Tensor) -> Tensor:
        if self.kind == "layer":
            return F.layer_norm(x, x.shape[-1:], self.weight, self.bias, self.eps)
        if self.weight is not None and computes(x):
            found = rms_norm(x, self.weight, self.eps, self.late_cast)
            if found is not None:
                return found
        if x.dtype == torch.float32:
            return F.rms_norm(x, x.shape[-1:], self.weight, self.eps)
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return (wide * self.weight).to(x.dtype) if self.late_cast else self.weight * wide.to(x.dtype)


@dataclass
class Projection:
    """A linear map ``[out, in]`` with an optional bias."""

    weight: Tensor
    bias: Tensor | None = None


Rope = tuple[Tensor, Tensor]
Watch = Callable[[str, Tensor], None]


class Choice(Protocol):
    """Who decides what runs of a block's MLP; ``x`` [rows, width] is the residual stream that it reads."""

    def experts(self, x: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Weights and indices of a sparse block's experts, each [rows, any], from router logits [rows, experts]."""

    def fetch(self, expert: int) -> tuple[Tensor, Tensor]:
        """``gate_up`` and ``down`` of one expert."""

    def neurons(self, x: Tensor) -> Tensor | None:
        """Of a dense block, see :func:`workbench.models.neurons.some_neurons`; None for all."""


@dataclass
class Block:
    """The steps of one decoder block.

    Attributes
    ----------
    index : int
        Layer number, from 0.
    heads, kv_heads, head_dim : int
    scoring : Scoring
        What makes attention weights of query-key products.
    window : int or None
        Sliding window in tokens, the query's own included.
    rope_kind : str or None
        Which of the model's rotary tables this layer reads; None where positions are learned, or there are none.
    rotary_pairs : bool
        Whether neighbouring dimensions of the projections turn together. Queries and keys come out with the first of
        all pairs in front and the second behind: no product of them changes, and everybody turns them alike.
    parallel : bool
        Whether the MLP reads the same residual stream as the attention.
    residual_multiplier : float
        What is multiplied with whatever a sublayer adds to the residual stream.
    """

    index: int
    heads: int
    kv_heads: int
    head_dim: int
    scoring: Scoring
    window: int | None
    rope_kind: str | None
    parallel: bool
    gated: bool
    interleaved: bool
    attention_norm: Norm | None
    attention_post_norm: Norm | None
    mlp_norm: Norm | None
    mlp_post_norm: Norm | None
    query_norm: Norm | None
    key_norm: Norm | None
    norm_over_all_heads: bool
    query_key_value: Projection
    attention_output: Projection
    up: Projection | None
    down: Projection | None
    router: Router | None
    activation: Activation | ClampedSwiglu
    shared: SharedExpert | None = None
    rotary_pairs: bool = False
    residual_multiplier: float = 1.0
    multiply: Multiply = field(default_factory=Multiply)

    @property
    def scale(self) -> float:
        """What query-key products are multiplied by."""
        return self.scoring.scale

    def enter(self, x: Tensor, rope: Rope | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of a residual stream.

        Parameters
        ----------
        x : Tensor [batch, tokens, width]
            Residual stream before the block.
        rope : (cosine, signed sine), each [tokens, 1, rotary_dim], or None
            As :meth:`workbench.models.anatomy.Anatomy.rope` gives them.

        Returns
        -------
        queries : Tensor [batch, heads, tokens, head_dim]
        keys, values : Tensor [batch, kv_heads, tokens, head_dim]
            Queries and keys are rotated to their positions.
        """
        normed = x if self.attention_norm is None else self.attention_norm(x)
        mixed = self.multiply(normed, self.query_key_value.weight, self.query_key_value.bias)
        batch, tokens = x.shape[:2]
        heads, kv_heads = self.heads, self.kv_heads
        if self.interleaved:
            mixed = mixed.view(batch, tokens, heads, 3, self.head_dim).transpose(2, 3).flatten(2, 3)
        else:
            if self.norm_over_all_heads and self.query_norm is not None:
                query, key, value = mixed.split(
                    (heads * self.head_dim, kv_heads * self.head_dim, kv_heads * self.head_dim), -1
                )
                mixed = torch.cat((self.query_norm(query), self.key_norm(key), value), -1)
            mixed = mixed.view(batch, tokens, heads + 2 * kv_heads, self.head_dim)
        rotated, value = mixed.split((heads + kv_heads, kv_heads), 2)
        if self.query_norm is not None and not self.norm_over_all_heads:
            query, key = rotated.split((heads, kv_heads), 2)
            rotated = torch.cat((self.query_norm(query), self.key_norm(key)), 2)
        if rope is not None:
            rotated = rotate(_halves(rotated, rope[0].shape[-1]) if self.rotary_pairs else rotated, rope)
        query, key = rotated.split((heads, kv_heads), 2)
        return query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)

    def attention_sublayer(self, attended: Tensor) -> Tensor:
        """What the attention adds to the residual stream.

        Parameters
        ----------
        attended : Tensor [batch, heads, tokens, head_dim]
            Weighted values.

        Returns
        -------
        Tensor [batch, tokens, width]
        """
        out = self.multiply(
            attended.transpose(1, 2).flatten(2), self.attention_output.weight, self.attention_output.bias
        )
        return self.added(out, self.attention_post_norm)

    def mlp_sublayer(self, x: Tensor, watch: Watch | None = None, choose: Choice | None = None) -> Tensor:
        """What the MLP (or the chosen experts) adds to the residual stream ``x`` [batch, tokens, width].

        ``watch("router_logits", logits [batch * tokens, experts])`` is told what the router said; ``choose`` decides
        what runs, by default all neurons of a dense block, and the router's own choice of experts.
        """
        normed = x if self.mlp_norm is None else self.mlp_norm(x)
        if self.router is not None:
            out = self._experts(x, normed, watch, choose)
        elif choose is not None and (chosen := choose.neurons(x.reshape(-1, x.shape[-1]))) is not None:
            return some_neurons(self, normed, chosen)
        else:
            inner = self.activation(self.multiply(normed, self.up.weight, self.up.bias), self.gated)
            out = self.multiply(inner, self.down.weight, self.down.bias)
        return self.added(out, self.mlp_post_norm)

    def added(self, out: Tensor, norm: Norm | None) -> Tensor:
        """What is added to the residual stream of what a sublayer gave."""
        out = out if norm is None else norm(out)
        return out if self.residual_multiplier == 1 else out * self.residual_multiplier

    def leave(self, x: Tensor, attended: Tensor, watch: Watch | None = None, choose: Choice | None = None) -> Tensor:
        """Residual stream after the block, from the one before it and the weighted values.

        ``watch`` also sees ``attention_output`` and ``mlp_output``, each [batch, tokens, width].
        """
        attention = self.attention_sublayer(attended)
        middle = x + attention
        mlp = self.mlp_sublayer(x if self.parallel else middle, watch, choose)
        if watch is not None:
            watch("attention_output", attention)
            watch("mlp_output", mlp)
        return middle + mlp

    def route(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """The model's own choice of experts: weights and indices, each [tokens, chosen], from logits."""
        weights, indices = logits.float().softmax(-1).topk(self.router.chosen, -1)
        if self.router.normalised:
            weights = weights / weights.sum(-1, keepdim=True)
        return weights, indices

    def _experts(self, x: Tensor, normed: Tensor, watch: Watch | None, choose: Choice | None) -> Tensor:
        rows = normed.reshape(-1, normed.shape[-1])
        router = self.router
        logits = self.multiply(rows, router.weight, router.bias)
        if watch is not None:
            watch("router_logits", logits)
        if choose is None:
            weights, indices = self.route(logits)
        else:
            weights, indices = choose.experts(x.reshape(-1, x.shape[-1]), logits)
        fetch = None if choose is None else choose.fetch
        out = apply_experts(rows, weights, indices, router, self.shared, self.activation, self.multiply, fetch)
        return out.view_as(normed)


def _halves(x: Tensor, width: int) -> Tensor:
    """``x`` [..., head_dim] with the pairs of neighbours among its first ``width`` dimensions torn apart: the first of
    all pairs in front, the second behind them."""
    turned = x[..., :width].unflatten(-1, (-1, 2)).transpose(-1, -2).flatten(-2)
    return turned if width == x.shape[-1] else torch.cat((turned, x[..., width:]), -1)


def rotate(x: Tensor, rope: Rope) -> Tensor:
    """Rotate ``x`` [batch, tokens, heads, head_dim] by (cosine, signed sine) [tokens, 1, rotary_dim].

    Su et al., RoFormer, 2021, arXiv 2104.09864. The sine of the first half carries the minus sign, which saves a
    negation. Dimensions beyond ``rotary_dim`` pass unchanged.
    """
    cosine, sine = rope
    width = cosine.shape[-1]
    turned = x if width == x.shape[-1] else x[..., :width]
    first, second = turned.chunk(2, -1)
    # OLMo 2 keeps its tables in float32.
    out = torch.addcmul(turned * cosine, torch.cat((second, first), -1), sine).to(x.dtype)
    return out if width == x.shape[-1] else torch.cat((out, x[..., width:]), -1)
