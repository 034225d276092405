"""Choosing tokens: temperature, top-k, top-p, and where chance comes from."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from workbench.engine.arguments import MOST_SEED, real, seed_of, whole
from workbench.errors import NumericalError, SettingError

COLDEST = 1e-6
"""Least temperature above 0: logits over a smaller one leave float32."""


class Chance:
    """The one source of chance of a run: seeded, and replaceable by a test that walks through every outcome."""

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed_of(seed)
        self._generator = torch.Generator().manual_seed(self._seed)

    def fork(self, number: int) -> Chance:
        """A source of its own, for one who draws beside the run; the same ``number`` gives the same one."""
        return Chance((self._seed + number) % (MOST_SEED + 1))

    def flip(self, probability: float) -> bool:
        """True with ``probability``."""
        return float(torch.rand((), generator=self._generator, dtype=torch.float64)) < probability

    def draw(self, probabilities: Tensor) -> int:
        """An index with the given probabilities [n]."""
        return int(torch.multinomial(probabilities.cpu(), 1, generator=self._generator))

    def uniform(self) -> float:
        """A number from (0, 1)."""
        number = float(torch.rand((), generator=self._generator, dtype=torch.float64))
        return number or 2.0**-53


@dataclass
class Sampler:
    """From logits to a distribution, and from a distribution to a token.

    Parameters
    ----------
    temperature : float
        0 is greedy; else at least :data:`COLDEST`.
    top_p : float
        Smallest set of tokens whose probability reaches it; 1 keeps all. Holtzman et al., 2019, arXiv 1904.09751.
    top_k : int
        The k most probable tokens; 0 keeps all.
    chance : Chance

    Raises
    ------
    SettingError
        If a setting is out of range.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    chance: Chance = field(default_factory=Chance)

    def __post_init__(self) -> None:
        self.temperature, self.top_p = real("temperature", self.temperature), real("top_p", self.top_p)
        self.top_k = whole("top_k", self.top_k, note=" (all tokens)")
        if not 0 <= self.temperature <= 100:
            raise SettingError(f"temperature must lie in 0 … 100, not {self.temperature}")
        if 0 < self.temperature < COLDEST:
            raise SettingError(f"temperature must be 0 (greedy) or at least {COLDEST}, not {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise SettingError(f"top_p must lie in (0, 1], not {self.top_p}")

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    def distribution(self, logits: Tensor) -> Tensor:
        """Probabilities [..., vocabulary] in float32 that tokens are drawn from; not for greedy sampling."""
        scaled = logits.float() / self.temperature
        if self.top_k and self.top_k < scaled.shape[-1]:
            least = scaled.topk(self.top_k, -1).values[..., -1:]
            scaled = scaled.masked_fill(scaled < least, float("-inf"))
        probabilities = scaled.softmax(-1)
        if self.top_p < 1:
            ordered, order = probabilities.sort(-1, descending=True)
            before = ordered.cumsum(-1) - ordered
            ordered = ordered.masked_fill(before >= self.top_p, 0.0)
            probabilities = torch.zeros_like(probabilities).scatter(-1, order, ordered)
            probabilities = probabilities / probabilities.sum(-1, keepdim=True)
        return probabilities

    def choose(self, logits: Tensor) -> int:
        """A token from logits [vocabulary]."""
        return int(logits.argmax()) if self.greedy else self.chance.draw(self.distribution(logits))


def check_finite(logits: Tensor, where: str) -> None:
    """Raise NumericalError if any of ``logits`` is NaN or positive infinity."""
    if not bool(torch.isfinite(logits.amax())):
        raise NumericalError(
            f"{where} gave NaN or infinite logits: use float32 or bfloat16 instead of float16, or check the weights"
        )


def check_adjusted(logits: Tensor, techniques: str) -> None:
    """Raise NumericalError if what the named techniques made of the logits has NaN or positive infinity in it."""
    worst = logits.amax()
    if bool(torch.isnan(worst) | (worst == float("inf"))):
        raise NumericalError(
            f"{techniques} made NaN or infinite logits of finite ones: leave it out, or take other settings for it"
        )


def check_any_left(logits: Tensor) -> None:
    """Raise NumericalError if no token of logits [vocabulary] may come next."""
    if bool((logits == float("-inf")).all()):
        raise NumericalError(
            "no token may come next: the recipe has ruled out all of them; loosen no_repeat_ngram, min_new_tokens or "
            "whatever else takes tokens away"
        )


def entropy(logits: Tensor) -> float:
    """Entropy [nats] of the distribution of logits [vocabulary]."""
    logs = logits.float().log_softmax(-1)
    # A token that a logits policy took away has probability 0 and adds nothing.
    return float(-(logs.exp() * logs).nan_to_num(0.0).sum())
