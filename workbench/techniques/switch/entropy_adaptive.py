"""A small model writes while the next token is clear, a large one while it is not.

Paper
-----
Simonds, Entropy Adaptive Decoding: Dynamic Model Switching for Efficient Inference, 2025, arXiv 2502.06833. The
entropy [bits] of the next-token distribution, before temperature, is averaged over the last tokens; above a threshold
the large model takes the next token, below it the small one, and a switch is followed by a few tokens without another.

Formula
-------
H_t = -sum_x p_t(x) log2 p_t(x); the large model writes while the mean of the last ``window`` H_t is at least
``threshold``, the small one otherwise, each for ``dwell`` tokens at least.

Deviates
--------
The prompt is read by the large model, and the small one reads it at the first switch; a model that takes over first
catches up on what the other wrote, in one forward, so that both caches are always right. The default small model is
half of the model's own layers, untrained: name a real one for the paper's setting. Beside a drafter a step gives
several tokens: all count, for the mean and for the rest after a switch, and the model can change after the last.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Annotated, Self

from pydantic import Field

from workbench.engine import Run, Verification
from workbench.engine.slots import SwitchPolicy
from workbench.models import Model
from workbench.models.second_model import second_model
from workbench.settings import outside, settings
from workbench.techniques._technique import Technique, register


@register
@settings
class EntropyAdaptive(Technique):
    """Rolling entropy chooses the model.

    Parameters
    ----------
    small : str
        See :func:`workbench.models.second_model.second_model`.
    threshold : float
        Mean entropy [bits] from which on the large model writes; 0 never leaves it.
    window : int
        Tokens averaged over.
    dwell : int
        Least tokens between two switches.
    """

    small: Annotated[str, outside("model", "small model: /layers, /share, or a model's name", min_length=1)] = "/0.5"
    threshold: Annotated[float, Field(ge=0, le=32, description="mean entropy that calls the large model [bits]")] = 1.0
    window: Annotated[int, Field(ge=1, le=64, description="tokens the entropy is averaged over")] = 5
    dwell: Annotated[int, Field(ge=1, le=64, description="least tokens between two switches")] = 5

    slots = ("switch",)
    exact = False
    stepwise = True
    paper = "Simonds, Entropy Adaptive Decoding, 2025, arXiv 2502.06833"

    def start(self, run: Run) -> _Switch:
        small = second_model(run.model, self.small)
        run.check_positions(small)
        return _Switch(self, (run.model, small))

    @classmethod
    def neutral(cls) -> Self:
        return cls(threshold=0.0)

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return cls(small="/2", threshold=3.0, window=2, dwell=1), cls(small="/3", threshold=32.0)


class _Switch(SwitchPolicy):
    LARGE, SMALL = 0, 1

    def __init__(self, settings: EntropyAdaptive, models: tuple[Model, Model]) -> None:
        self.models = models
        self._settings = settings
        self._recent: deque[float] = deque(maxlen=settings.window)
        self._current, self._since = self.LARGE, 0

    def choose_model(self, entropies: Sequence[float], verification: Verification | None = None) -> int:
        if not entropies:
            return self._current
        self._recent += [entropy / math.log(2) for entropy in entropies]
        self._since += len(entropies)
        mean = sum(self._recent) / len(self._recent)
        wanted = self.LARGE if mean >= self._settings.threshold else self.SMALL
        if wanted != self._current and self._since >= self._settings.dwell:
            self._current, self._since = wanted, 0
        return self._current
