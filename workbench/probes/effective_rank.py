"""How many directions the hidden states of a text span, how fast that grows along it, and whether faster and faster.

Paper
-----
Effective rank: Roy and Vetterli, The effective rank: A measure of effective dimensionality, 2007, EUSIPCO. Its first
and second differences along a generation: Huang et al., Beyond the Exploration-Exploitation Trade-off: A Hidden State
Approach for LLM Reasoning in RLVR (VERL), 2025, arXiv 2509.23808.

Source
------
github.com/hf618/VERL, ``verl/trainer/metrics_utils.py``

Formula
-------
Of the states of the first t tokens, less their mean, with singular values s and p = s / sum(s)::

    effective_rank(t) = exp(-sum(p * log(p)))
    velocity(j) = effective_rank(t_j) - mean(effective_rank(t_i) for i < j)
    acceleration(j) = velocity(j) - velocity(j - 1)

at t_1, t_2, ... every ``stride`` tokens.

Deviates
--------
The paper looks at the last layer's states, which transformers gives through the final norm, every 40 tokens; here some
layers are looked at, evenly spread, the last among them, all through the final norm, as a lens reads them, and the
stride follows from the length of the text unless it is given.
"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
import torch
import xarray as xr
from pydantic import Field
from torch import Tensor

from workbench.errors import SettingError
from workbench.models import Model
from workbench.models.model import evenly
from workbench.probes._probe import Probe, Reader, axis, register
from workbench.settings import settings
from workbench.trace import variable

_LOOKS = 24
_LEAST = 2  # one state less its mean is nothing


@register
@settings
class EffectiveRank(Probe):
    """Effective rank of the hidden states along a text, with its first and second differences.

    Parameters
    ----------
    layers : int
        Layers that are looked at.
    stride : int or None
        Tokens between two looks; by default a 24th of the text.
    begin : int
        Tokens at the start that are left out: the length of the prompt, to look at what was generated after it alone.

    Notes
    -----
    Writes ``effective_rank`` (layer, length), ``velocity`` (layer, later) and ``acceleration`` (layer, latest), where
    the coordinates are the tokens looked at, from ``begin`` on: the first look has no velocity, the second no
    acceleration. States are reduced as they pass; a look costs the eigenvalues of a matrix as large as the text or the
    width, whichever is less.
    """

    layers: Annotated[int, Field(ge=1, le=1024, description="layers that are looked at")] = 3
    stride: Annotated[int, Field(ge=1, description="tokens between looks; a 24th of the text if none")] | None = None
    begin: Annotated[int, Field(ge=0, description="tokens at the start that are left out")] = 0

    sites = ("residual",)
    paper = "Roy and Vetterli, 2007, EUSIPCO; Huang et al., VERL, 2025, arXiv 2509.23808"

    def start(self, model: Model, tokens: Tensor) -> _Reader:
        count = len(tokens) - self.begin
        if count < 1:
            raise SettingError(f"{self.name}: begin={self.begin} leaves nothing of a text of {len(tokens)} tokens")
        stride = self.stride or -(-count // _LOOKS)
        lengths = range(max(_LEAST, stride), count + 1, stride)
        last = model.layers - 1
        chosen = [last] if self.layers == 1 else evenly(model.layers, min(self.layers, model.layers))
        return _Reader(model, self.begin, list(lengths), chosen)

    @classmethod
    def examples(cls) -> tuple[EffectiveRank, ...]:
        return cls(), cls(layers=1, stride=3, begin=5)


class _Reader(Reader):
    def __init__(self, model: Model, begin: int, lengths: list[int], chosen: list[int]) -> None:
        self._norm, self._begin, self._lengths = model.anatomy.final_norm, begin, lengths
        self._ranks = {layer: np.zeros(len(lengths)) for layer in chosen}

    def see(self, site: str, layer: int, value: Any) -> None:
        if layer in self._ranks:
            states = self._norm(value[0, self._begin :])
            self._ranks[layer][:] = effective_ranks(states, self._lengths)

    def finish(self) -> xr.Dataset:
        ranks = np.stack(list(self._ranks.values()))
        velocity = differences(ranks)
        variables = {
            "effective_rank": variable("layer length", ranks, "1", "effective rank"),
            "velocity": variable("layer later", velocity, "1", "effective rank over the mean of those before"),
            "acceleration": variable("layer latest", np.diff(velocity, axis=1), "1", "change of the velocity"),
        }
        coordinates = axis("layer", np.array(list(self._ranks)), "layer", "layer")
        for place, name in enumerate(("length", "later", "latest")):
            coordinates |= axis(name, np.array(self._lengths[place:], dtype=np.int64), "tokens", "tokens looked at")
        return xr.Dataset(variables, coordinates, {"begin": self._begin})


def effective_ranks(states: Tensor, lengths: list[int]) -> np.ndarray:
    """Effective rank of the first so many states, each time less their mean.

    Parameters
    ----------
    states : Tensor [tokens, width]
    lengths : list of int

    Returns
    -------
    array [lengths]
        From 1 on; 0 where all states are the same.
    """
    # The ranks do not change with a shift, but their rounding does.
    states = states.double() - states.double().mean(0)
    total, found = states.new_zeros(states.shape[1]), []
    gram = states @ states.T if len(states) <= states.shape[1] else None
    scatter, done = states.new_zeros(()), 0
    for length in lengths:
        if gram is not None:
            part = gram[:length, :length]
            mean = part.mean(0)
            matrix = part - mean - mean[:, None] + mean.mean()
        else:
            new = states[done:length]
            scatter, total, done = scatter + new.T @ new, total + new.sum(0), length
            matrix = scatter - torch.outer(total, total) / length
        # Singular values of the states are the roots of the eigenvalues of their products.
        squares = torch.linalg.eigvalsh(matrix)
        noise = squares[-1].clamp_min(0) * torch.finfo(squares.dtype).eps * len(squares)
        values = torch.where(squares > noise, squares, 0).clamp_min(0).sqrt()
        sum_ = values.sum()
        found.append(torch.where(sum_ > 0, torch.special.entr(values / sum_.clamp_min(1e-300)).sum().exp(), 0))
    return torch.stack(found).cpu().numpy() if found else np.zeros(0)


def differences(values: np.ndarray) -> np.ndarray:
    """Every value after the first, less the mean of all before it; along the last dimension."""
    before = np.cumsum(values, -1)[..., :-1] / np.arange(1, values.shape[-1])
    return values[..., 1:] - before if values.shape[-1] else values
