"""Which texts go into which step: shuffled anew in every pass, similar lengths together, the same for a seed."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
from torch import Tensor

from workbench.training.data import TrainingData

_SORTED_TOGETHER = 16


class Batches:
    """Batches of training texts by step number.

    Parameters
    ----------
    data : TrainingData
    batch, length : int
        Texts in a batch and the most tokens of each; of a longer text the end is taken, where the answer is.
    seed : int
    device : torch.device
    """

    def __init__(self, data: TrainingData, batch: int, length: int, seed: int, device: torch.device) -> None:
        self._data, self._length, self._seed, self._device = data, length, seed, device
        self._batch = min(batch, len(data.tokens))
        self._whole = len(data.tokens) // self._batch
        self._order = functools.lru_cache(maxsize=1)(self._shuffled)

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """Tokens (int64) and answer mask of a step, each [batch, tokens of its longest text]."""
        turn, place = divmod(step, self._whole)
        return self._cut(self._order(turn)[place])

    def in_order(self, texts: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """All texts once, from the first to the last, or ``texts`` of them, evenly spread."""
        count = len(self._data.tokens)
        kept = min(count, texts or count)
        return map(self._cut, (torch.arange(kept) * count // kept).split(self._batch))

    def _shuffled(self, turn: int) -> list[Tensor]:
        generator = torch.Generator().manual_seed(1_000_003 * self._seed + turn)
        order = torch.randperm(len(self._data.tokens), generator=generator)[: self._whole * self._batch]
        batches = []
        for group in order.split(_SORTED_TOGETHER * self._batch):
            batches += group[self._data.lengths[group].argsort(stable=True)].split(self._batch)
        return [batches[place] for place in torch.randperm(len(batches), generator=generator).tolist()]

    def _cut(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        ends = self._data.lengths[rows].long()
        starts = (ends - self._length).clamp(min=0)
        places = starts[:, None] + torch.arange(int((ends - starts).max()))
        # A shorter text is filled up; what it is filled with is no answer.
        inside = places < ends[:, None]
        places = places.clamp(max=self._data.tokens.shape[1] - 1)
        tokens = self._data.tokens[rows].gather(1, places).long()
        answer = self._data.answer[rows].gather(1, places) & inside
        return tokens.to(self._device), answer.to(self._device)
