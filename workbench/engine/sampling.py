"""Choosing tokens: temperature, top-k, top-p, and where chance comes from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from workbench.engine.arguments import MOST_SEED, real, seed_of, whole
from workbench.errors import NumericalError, SettingError
from workbench_kernels.arithmetic import computes
from workbench_kernels.highest import highest

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
    _known: tuple[Tensor, list[int]] | None = field(default=None, init=False, repr=False, compare=False)

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

    def read(self, logits: Tensor, checks: Sequence[Check]) -> None:
        """Find out whether logits [rows, vocabulary] pass all checks and, greedy, what :meth:`best` says of them.

        All of it is one copy to the host, which waits for the device once.

        Raises
        ------
        NumericalError
        """
        if not self.greedy:
            refuse(checks)
            return
        failed = torch.stack([check.failed for check in checks])
        read = torch.cat((failed.long(), _highest(logits)[1])).tolist()
        _refuse(checks, read)
        self._known = logits, read[len(checks) :]

    def best(self, logits: Tensor) -> list[int]:
        """The most probable token of every row of logits [rows, vocabulary]; what was read is not read again."""
        known = self._known
        return known[1] if known is not None and known[0] is logits else _highest(logits)[1].tolist()

    def choose(self, logits: Tensor) -> int:
        """A token from logits [vocabulary]."""
        return self.choose_after(logits[None], 0)

    def choose_after(self, logits: Tensor, row: int) -> int:
        """A token from one row of logits [rows, vocabulary]."""
        return self.best(logits)[row] if self.greedy else self.chance.draw(self.distribution(logits[row]))


def _highest(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The highest of every row of logits [rows, vocabulary] and the token that has it, of equal ones the first."""
    return highest(logits) if computes(logits) and logits.numel() else (logits.amax(-1), logits.argmax(-1))


@dataclass(frozen=True)
class Check:
    """A question about logits that is asked where they are, and read with others.

    Attributes
    ----------
    failed : bool Tensor []
    message : str
        Of the error, if it has.
    """

    failed: Tensor
    message: str


def finite(logits: Tensor, where: str) -> Check:
    """Whether any of ``logits`` is NaN or positive infinity."""
    return Check(
        ~torch.isfinite(_highest(logits)[0].amax()),
        f"{where} gave NaN or infinite logits: use float32 or bfloat16 instead of float16, or check the weights",
    )


def well_adjusted(logits: Tensor, techniques: str) -> Check:
    """Whether what the named techniques made of the logits has NaN or positive infinity in it."""
    worst = _highest(logits)[0].amax()
    return Check(
        torch.isnan(worst) | (worst == float("inf")),
        f"{techniques} made NaN or infinite logits of finite ones: leave it out, or take other settings for it",
    )


def any_left(logits: Tensor) -> Check:
    """Whether some token of logits [vocabulary] may come next."""
    return Check(
        (logits == float("-inf")).all(),
        "no token may come next: the recipe has ruled out all of them; loosen no_repeat_ngram, min_new_tokens or "
        "whatever else takes tokens away",
    )


def refuse(checks: Sequence[Check]) -> None:
    """Raise NumericalError with the message of the first check that failed."""
    _refuse(checks, torch.stack([check.failed for check in checks]).tolist())


def _refuse(checks: Sequence[Check], failed: Sequence[int]) -> None:
    for check, flag in zip(checks, failed):
        if flag:
            raise NumericalError(check.message)


def entropies(logits: Tensor) -> list[float]:
    """Entropy [nats] of the distribution of every row of logits [rows, vocabulary]."""
    # Row by row, so that a row has the same sums whatever it is read with.
    return torch.stack([_entropy(row) for row in logits]).tolist()


def _entropy(logits: Tensor) -> Tensor:
    logs = logits.float().log_softmax(-1)
    # A token that a logits policy took away has probability 0 and adds nothing.
    return -(logs.exp() * logs).nan_to_num(0.0).sum()
