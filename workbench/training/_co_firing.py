"""Neurons put together by how they fire: k-means with clusters of one size.

Source: balanced k-means as MoEfication has it, Zhang et al., 2021, arXiv 2110.01786; here each round deals neurons to
centres greedily, the closest pair first, instead of solving the assignment.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_ROUNDS = 10
_WIDTH = 128  # numbers that are kept of how a neuron fires over all tokens


def co_firing(strength: Tensor, groups: int, generator: torch.Generator) -> Tensor:
    """Which neurons belong together: int [groups, neurons / groups], each group in increasing order.

    Parameters
    ----------
    strength : Tensor [tokens, neurons]
        How strongly each neuron fires; those that rise and fall together are close.
    groups : int
        Divides the number of neurons.
    generator : torch.Generator
    """
    spread = (strength - strength.mean(0)) / strength.std(0).clamp_min(1e-12)
    tokens = len(spread)
    if tokens > _WIDTH:  # correlations survive a random projection
        spread = torch.randn(_WIDTH, tokens, generator=generator).to(spread) @ spread
    places = F.normalize(spread.t(), dim=-1)
    centres = places[torch.randperm(len(places), generator=generator)[:groups].to(places.device)]
    for _ in range(_ROUNDS):
        owner = dealt(torch.cdist(places, centres), len(places) // groups)
        centres = torch.stack([places[owner == group].mean(0) for group in range(groups)])
    return torch.stack([(owner == group).nonzero()[:, 0] for group in range(groups)])


def dealt(distance: Tensor, most: int) -> Tensor:
    """The group of each neuron, int [neurons], at most so many in any: the closest pair of ``distance`` [neurons,
    groups] first."""
    groups = distance.shape[1]
    owner, room, left = [-1] * len(distance), [most] * groups, len(distance)
    for pair in distance.flatten().argsort().tolist():
        neuron, group = divmod(pair, groups)
        if owner[neuron] < 0 and room[group]:
            owner[neuron], room[group], left = group, room[group] - 1, left - 1
            if not left:
                break
    return torch.tensor(owner, device=distance.device)
