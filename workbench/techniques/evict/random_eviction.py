"""Keep a random half of the prompt's keys: the control that every eviction must beat.

Paper
-----
None: a control. Random eviction is the usual lower bound of the literature, for example in Zhang et al., H2O, 2023,
arXiv 2306.14048.

Formula
-------
Every layer and KV head keeps, of n keys, the first ``sinks`` and the last ``window``, and of the others those of
largest u_j ~ Uniform(0, 1): max(ceil(keep n), window) in all.
"""

from __future__ import annotations

from typing import Annotated, Self

import torch
from pydantic import Field
from torch import Tensor

from workbench.engine import KeyValueState, Run
from workbench.settings import settings
from workbench.techniques._technique import Technique, register
from workbench.techniques.evict._prompt_eviction import PromptEviction


@register
@settings
class RandomEviction(Technique):
    """Random keys of the prompt stay, drawn for every layer and KV head with the seed of the run.

    Parameters
    ----------
    keep : float
        Share of the prompt's keys that stays in every layer, window and sinks included; 1 evicts nothing.
    window : int
        Last tokens of the prompt, whose keys always stay.
    sinks : int
        First tokens of the prompt, whose keys always stay; 0 for a control without.
    """

    keep: Annotated[float, Field(gt=0, le=1, description="share of the prompt's keys that stays")] = 0.5
    window: Annotated[int, Field(ge=1, le=256, description="last tokens, which stay")] = 32
    sinks: Annotated[int, Field(ge=0, le=64, description="first tokens, which stay")] = 4

    slots = ("evict",)
    exact = False
    paper = "none: the control; as in Zhang et al., H2O, 2023, arXiv 2306.14048"

    def start(self, run: Run) -> _Drawn:
        return _Drawn(self, run.seed)

    @classmethod
    def neutral(cls) -> Self:
        return cls(keep=1.0)

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return cls(window=4, sinks=1), cls(keep=0.3, window=2, sinks=0)


class _Drawn(PromptEviction):
    """Scores by chance."""

    def __init__(self, technique: RandomEviction, seed: int) -> None:
        super().__init__(technique.keep, technique.window)
        self._sinks = technique.sinks
        self._generator = torch.Generator().manual_seed(seed)

    def scores(self, layer: int, query: Tensor, cache: KeyValueState, earlier: int) -> Tensor:
        drawn = torch.rand(cache.keys.shape[1], earlier, generator=self._generator)
        drawn[:, : self._sinks] = 2.0
        return drawn.to(query.device)
