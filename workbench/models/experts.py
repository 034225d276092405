"""The experts of a mixture-of-experts MLP, and what their chosen ones make of some rows."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from workbench.models.projection import LinearMap, Projection
from workbench_kernels.arithmetic import computes
from workbench_kernels.few_experts import few_experts

_FEW = 64  # pairs of a row and an expert up to which the compiled kernel takes them one by one

Gated = Callable[[Tensor, bool], Tensor]
"""An activation, see :class:`workbench.models.activation.Activation`."""


@dataclass
class Expert:
    """A gated MLP.

    Attributes
    ----------
    gate_up : LinearMap [2 * inner, width]
    down : LinearMap [width, inner]
    """

    gate_up: LinearMap
    down: LinearMap

    def __call__(self, rows: Tensor, activation: Gated) -> Tensor:
        """Rows [tokens, width] of rows [tokens, width]."""
        return self.down(activation(self.gate_up(rows), True))

    def flops(self, rows: int) -> int:
        """Operations of so many rows, a multiply-add counted as two."""
        return self.gate_up.flops(rows) + self.down.flops(rows)

    def bytes(self, rows: int) -> int:
        """Bytes of weights that so many rows read."""
        return self.gate_up.bytes(rows) + self.down.bytes(rows)


@dataclass
class SharedExpert(Expert):
    """The one that every token goes through beside the experts that its router chose.

    Attributes
    ----------
    gate : LinearMap [1, width] or None
        The result is multiplied with the sigmoid of this product.
    """

    gate: LinearMap | None = None

    def __call__(self, rows: Tensor, activation: Gated) -> Tensor:
        out = super().__call__(rows, activation)
        if self.gate is None:
            return out
        # The sigmoid as a softmax, which goes row by row: torch's sigmoid rounds whole vectors of rows in one way and
        # what is left over in another.
        gate = F.pad(self.gate(rows).float(), (0, 1)).softmax(-1)[:, :1]
        return gate.to(rows.dtype) * out

    def flops(self, rows: int) -> int:
        return super().flops(rows) + (0 if self.gate is None else self.gate.flops(rows))

    def bytes(self, rows: int) -> int:
        return super().bytes(rows) + (0 if self.gate is None else self.gate.bytes(rows))


@dataclass
class Router:
    """Router and experts of a mixture-of-experts MLP.

    Attributes
    ----------
    scores : LinearMap [experts, width]
        Its outputs are the router's logits.
    experts : list of Expert
    chosen : int
        Experts per token.
    normalised : bool
        Whether the chosen experts' weights are made to sum to one.
    """

    scores: LinearMap
    experts: list[Expert]
    chosen: int
    normalised: bool

    @functools.cached_property
    def plain(self) -> bool:
        """Whether all experts are dense weights of one size that the compiled kernels multiply."""
        maps = [(expert.gate_up, expert.down) for expert in self.experts]
        return len({(up.weight.shape, down.weight.shape) for up, down in maps}) == 1 and all(
            type(each) is Projection and each.bias is None and each.multiply.compiled and each.weight.is_contiguous()
            for both in maps
            for each in both
        )


def apply_experts(
    rows: Tensor,
    weights: Tensor,
    indices: Tensor,
    router: Router,
    shared: SharedExpert | None,
    activation: Gated,
    fetch: Callable[[int], Expert] | None = None,
    own: bool = True,
) -> Tensor:
    """Weighted sum of what the chosen experts, and the shared one if there is one, make of ``rows`` [tokens, width].

    ``weights`` and ``indices``, each [tokens, any], say which experts a token has and how much each counts; a token
    that has fewer than others is filled up with the index ``len(router.experts)``, which is none. ``fetch(expert)``
    gives one of them; with ``own`` it is the router's own, and several may be asked for before the first is used.
    """
    fetch = router.experts.__getitem__ if fetch is None else fetch
    weights, kind = weights.to(rows.dtype), getattr(activation, "kind", None)
    if own and indices.numel() <= _FEW and kind is not None and router.plain and computes(rows):
        out = _pair_by_pair(rows, weights, indices, router, kind, fetch)
    else:
        out = _expert_by_expert(rows, weights, indices, router, activation, fetch)
    return out if shared is None else out + shared(rows, activation)


def _expert_by_expert(
    rows: Tensor,
    weights: Tensor,
    indices: Tensor,
    router: Router,
    activation: Gated,
    fetch: Callable[[int], Expert],
) -> Tensor:
    out = torch.zeros_like(rows)
    # Rows by expert, those of one in order; how many each has is all that the host needs to know.
    named = indices.flatten().long()
    order = named.argsort(stable=True)
    held = order.new_zeros(len(router.experts) + 1).scatter_add_(0, named, torch.ones_like(order)).tolist()[:-1]
    tokens, places = order // indices.shape[1], order % indices.shape[1]
    start = 0
    for expert, count in ((expert, count) for expert, count in enumerate(held) if count):
        token, place, start = tokens[start : start + count], places[start : start + count], start + count
        result = fetch(expert)(rows[token], activation)
        out.index_add_(0, token, result * weights[token, place, None])
    return out


def _pair_by_pair(
    rows: Tensor, weights: Tensor, indices: Tensor, router: Router, kind: str, fetch: Callable[[int], Expert]
) -> Tensor:
    """The same sums in the same order, in one call of the compiled kernel."""
    chosen, none = indices.shape[1], len(router.experts)
    named = sorted((expert, pair) for pair, expert in enumerate(indices.flatten().tolist()) if expert != none)
    experts = {expert: fetch(expert) for expert in dict(named)}
    return few_experts(
        rows,
        [pair // chosen for _, pair in named],
        [experts[expert].gate_up.weight for expert, _ in named],
        [experts[expert].down.weight for expert, _ in named],
        weights.flatten()[[pair for _, pair in named]],
        kind,
    )
