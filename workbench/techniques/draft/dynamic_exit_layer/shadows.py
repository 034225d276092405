"""What every candidate layer would have had accepted, and which of them is worth drafting with: numbers alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_PRIOR = 1.0  # tokens that what is believed beforehand weighs as much as


class Shadows:
    """Acceptance and confidence of the exits of some layers, old rounds weighing less.

    Parameters
    ----------
    layers : sequence of int
        The candidates: blocks that each runs.
    believed : sequence of float
        For each the acceptance that it begins with.
    decay : float
        What a round weighs once another has come.
    depth, head : float
        Cost of the whole model and of an unembedding, in blocks.
    most : int
        Most tokens drafted at once.
    """

    def __init__(
        self, layers: Sequence[int], believed: Sequence[float], decay: float, depth: float, head: float, most: int
    ) -> None:
        self.layers, self._decay = list(layers), decay
        self._seen = np.full(len(layers), _PRIOR)
        self._accepted = _PRIOR * np.asarray(believed, dtype=float)
        self._sure, self._unsure, self._right, self._wrong = (np.zeros(len(layers)) for _ in range(4))
        lengths = np.arange(most + 1)
        self._cost = lengths * (np.asarray(layers)[:, None] + head) + depth + head
        self._lengths = lengths

    @property
    def acceptance(self) -> NDArray[np.float64]:
        """[candidates]: share of tokens that each would have had accepted."""
        return self._accepted / self._seen

    @property
    def thresholds(self) -> NDArray[np.float64]:
        """[candidates]: halfway between the mean confidence of tokens that were right and of those that were not; 0
        where either is still missing."""
        known = (self._right > 0) & (self._wrong > 0)
        right, wrong = (np.where(known, each, 1.0) for each in (self._right, self._wrong))
        return np.where(known, (self._sure / right + self._unsure / wrong) / 2, 0.0)

    def learn(self, agreed: NDArray[np.float64], confidence: NDArray[np.float64]) -> None:
        """A round: for each candidate and each token of it [candidates, tokens] the chance that its token is accepted
        (0 or 1 where nothing is drawn), and the probability that it gave it."""
        sums = (
            (self._accepted, agreed),
            (self._seen, np.ones_like(agreed)),
            (self._right, agreed),
            (self._wrong, 1 - agreed),
            (self._sure, agreed * confidence),
            (self._unsure, (1 - agreed) * confidence),
        )
        for held, new in sums:
            held *= self._decay
            held += new.sum(1)

    def tokens_per_layer(self) -> NDArray[np.float64]:
        """[candidates, lengths from 0]: tokens that a round is expected to give for every block that it runs."""
        kept = np.minimum(self.acceptance, 1.0)[:, None] ** self._lengths
        return kept.cumsum(1) / self._cost

    def choose(self) -> tuple[int, int]:
        """Place of the candidate and the number of tokens to draft that give most; of equal ones the first, the
        shortest."""
        place, length = np.unravel_index(int(self.tokens_per_layer().argmax()), self._cost.shape)
        return int(place), int(length)
