"""Which experts a mixture-of-experts model loads, how sure its routers are, and which experts work together.

Paper
-----
Load: Fedus et al., Switch Transformers, 2021, arXiv 2101.03961. Co-activation: Muennighoff et al., OLMoE, 2024,
arXiv 2409.02060, section 5.2. What chance alone gives: Chen, Dempster, Liu, Weighted Finite Population Sampling to
Maximize Entropy, 1994, Biometrika 81(3).

Deviates
--------
OLMoE divides the co-activations of a pair by the activations of its first expert and shows the 32 strongest experts;
here all pairs are kept and divided by the number of tokens, so that the matrix is symmetric; dividing a row by its
diagonal entry gives OLMoE's number.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from workbench.errors import SettingError
from workbench.models import FAMILIES, Model
from workbench.probes._probe import Probe, Reader, axis, register
from workbench.settings import settings
from workbench.trace import variable

_ROUNDS, _NEAR = 500, 1e-7  # of the fit of odds to shares: most rounds, and how close


@register
@settings
class ExpertCoactivation(Probe):
    """Load, router entropy and co-activation of the chosen experts, layer by layer, over all tokens.

    Notes
    -----
    Writes ``load`` (layer, expert), the share of all assignments, which sums to one over the experts;
    ``router_entropy`` (layer) [nats], the mean entropy of the router's distribution over all experts;
    ``coactivation`` (layer, expert, other_expert), the share of tokens that chose both, its diagonal the share of
    tokens that chose the expert. ``layer`` holds the numbers of the layers that have experts. All are means over the
    tokens, so their number biases none of them.

    Pairs come together by chance too, the more the more they are loaded. ``expected`` (layer, expert, other_expert) is
    what routing that is independent but for its load would give: of all distributions over ``k`` different experts in
    which every expert has the share of tokens that it was found to have, the one of most entropy. ``excess`` is what
    was found less that.
    """

    sites = ("router_logits",)
    paper = (
        "Fedus et al., Switch Transformers, 2021, arXiv 2101.03961; Muennighoff et al., OLMoE, 2024, arXiv 2409.02060"
    )

    def start(self, model: Model, tokens: Tensor) -> _Reader:
        sparse = [block.index for block in model.anatomy.blocks if block.router is not None]
        if not sparse:
            known = ", ".join(family.title for family in FAMILIES.values() if family.experts is not None)
            raise SettingError(
                f"{self.name} needs a mixture-of-experts model ({known}); {model.name} is a dense "
                f"{model.anatomy.family.title} without experts"
            )
        return _Reader(model, sparse)


class _Reader(Reader):
    def __init__(self, model: Model, sparse: list[int]) -> None:
        self._blocks, self._sparse = model.anatomy.blocks, sparse
        self._experts = self._blocks[sparse[0]].router.scores.weight.shape[0]
        self._entropy = np.zeros(len(sparse))
        self._pairs = torch.zeros(len(sparse), self._experts, self._experts, device=model.device)

    def see(self, site: str, layer: int, value: Any) -> None:
        place = self._sparse.index(layer)
        _, chosen = self._blocks[layer].route(value)
        picked = torch.zeros(len(value), self._experts, device=value.device).scatter_(1, chosen, 1.0)
        self._pairs[place] = picked.t() @ picked / len(value)
        self._entropy[place] = float(torch.special.entr(value.float().softmax(-1)).sum(-1).mean())

    def finish(self) -> xr.Dataset:
        chosen = self._pairs.diagonal(dim1=1, dim2=2)
        load = chosen / chosen.sum(-1, keepdim=True)
        variables = {
            "load": variable("layer expert", load, "1", "share of assignments"),
            "router_entropy": variable("layer", self._entropy, "nats", "router entropy"),
            "coactivation": variable(
                "layer expert other_expert", self._pairs, "1", "share of tokens that chose both experts"
            ),
        }
        found = self._pairs.double().cpu().numpy()
        expected = by_chance(np.diagonal(found, axis1=1, axis2=2))
        whose = "layer expert other_expert"
        variables["expected"] = variable(whose, expected, "1", "share of tokens that chance would give both experts")
        variables["excess"] = variable(whose, found - expected, "1", "share of tokens with both experts beyond chance")
        experts = np.arange(self._experts)
        coordinates = {
            **axis("layer", np.array(self._sparse), "layer", "layer"),
            **axis("expert", experts, "expert", "expert"),
            **axis("other_expert", experts, "expert", "other expert"),
        }
        return xr.Dataset(variables, coordinates)


def by_chance(shares: np.ndarray) -> np.ndarray:
    """Share of tokens with both of two experts [layers, experts, experts] where nothing but the experts' own shares is
    given, and that all tokens have as many; on the diagonal the shares.

    Parameters
    ----------
    shares : array [layers, experts]
        Of tokens that chose each expert; a layer's sum is how many a token has.
    """
    chosen = int(np.round(shares[0].sum()))
    target = np.clip(shares, 0, 1 - _NEAR)
    odds = target / (1 - target)
    for _ in range(_ROUNDS):
        if np.abs(inclusion(odds, chosen) - target).max() < _NEAR:
            break
        odds = target / np.maximum(1 - inclusion(odds, chosen - 1), _NEAR)
    others = odds[:, None, :] * (1 - np.eye(shares.shape[1]))
    # Given one expert, the rest are drawn of the others with the same odds.
    expected = shares[..., None] * inclusion(others, chosen - 1)
    expected = (expected + expected.swapaxes(1, 2)) / 2
    return expected + np.eye(shares.shape[1]) * shares[:, None]


def inclusion(odds: np.ndarray, chosen: int) -> np.ndarray:
    """Chance of each expert [..., experts] to be among ``chosen`` different ones, where a set's chance is in proportion
    to the product of its experts' ``odds`` [..., experts]."""
    chance = np.zeros_like(odds)
    for count in range(1, chosen + 1):
        free = odds * (1 - chance)
        chance = np.clip(count * free / np.maximum(free.sum(-1, keepdims=True), 1e-300), 0, 1)
    return chance
