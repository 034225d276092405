"""What all evictions after the prompt share: a budget, a window that stays, and the best-scored of the rest."""

from __future__ import annotations

import abc
import math

import torch
from torch import Tensor

from workbench.engine.slots import EvictPolicy
from workbench.engine.state import KeyValueCache, KeyValueState


class PromptEviction(EvictPolicy, abc.ABC):
    """Policy of the slot ``evict`` that keeps a share of the prompt's keys, the same number for every KV head.

    A technique gives the scores; everything else is the same for all of them, so that they compare at equal budgets.
    It runs layer by layer during the prefill: full caches of all layers never stand together.

    Parameters
    ----------
    keep : float
        Share of the prompt's keys that stays, the window included, rounded up.
    window : int
        Newest keys, which always stay, even where they alone exceed the share.
    """

    def __init__(self, keep: float, window: int) -> None:
        self.keep, self.window = keep, window

    @abc.abstractmethod
    def scores(self, layer: int, query: Tensor, cache: KeyValueState, earlier: int) -> Tensor:
        """Scores [kv_heads, earlier] of the ``earlier`` first entries of ``cache``; the best stay.

        ``query`` [1, heads, chunk, head_dim] are the queries of the last chunk of the prompt, whose keys stand last in
        ``cache``.
        """

    def prefilled(self, layer: int, query: Tensor, cache: KeyValueState) -> None:
        held = cache.length
        budget = max(math.ceil(self.keep * held), self.window)
        if budget >= held:
            return
        earlier = held - self.window
        best = self.scores(layer, query, cache, earlier).topk(budget - self.window, -1).indices.sort(-1).values
        window = torch.arange(earlier, held, device=best.device).expand(best.shape[0], -1)
        cache.keep(torch.cat((best, window), -1))

    def settled(self, cache: KeyValueCache) -> None:
        """Nothing: what is generated stays."""
