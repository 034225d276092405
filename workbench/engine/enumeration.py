"""Walk through every outcome of a run, with its exact probability: how it is shown that sampling keeps a distribution.

A run whose source of chance follows a script is repeated, the script longer by one decision each time, until every
outcome of every decision was taken once. That is for tiny vocabularies and few tokens; nothing is estimated.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

from workbench.engine.loop import Loop
from workbench.engine.recipe import Recipe
from workbench.engine.run import Run, TechniqueLike
from workbench.engine.sampling import Chance, Sampler
from workbench.engine.step import Step
from workbench.models import Model

Distribution = dict[Hashable, float]
"""Outcome -> its probability."""

Script = Mapping[tuple[int, ...], tuple[int, ...]]
_MOST = 100_000


class TooManyOutcomes(Exception):
    """There are more outcomes than were to be walked through."""


class _Undecided(Exception):
    """The script ended where another decision is due."""

    def __init__(self, stream: tuple[int, ...], probabilities: list[float]) -> None:
        self.stream, self.probabilities = stream, probabilities


class EnumeratedChance(Chance):
    """Stands in for :class:`workbench.engine.Chance`: decisions follow a script, and their probabilities are kept.

    Parameters
    ----------
    script : mapping
        For each stream (``()``, and one for every :meth:`fork`) its outcomes in order. Streams have scripts of their
        own because a worker's thread draws at no fixed moment of the run.
    noise : int
        Seed of the numbers that :meth:`uniform` gives, which are a fixed series: the result is given these.
    given : int
        So many first decisions take their likeliest outcome, and cost no probability: the distribution is the one given
        these.
    """

    def __init__(self, script: Script, noise: int = 0, given: int = 0, stream: tuple[int, ...] = ()) -> None:
        self._script, self._stream, self._given = script, stream, given
        self._place = 0
        self._seed, self._noise = noise, random.Random(hash((noise, *stream)))
        self._probability = 1.0
        self._children: list[EnumeratedChance] = []

    @property
    def probability(self) -> float:
        """Of all that was decided, here and in what was forked off."""
        whole = self._probability
        for child in self._children:
            whole *= child.probability
        return whole

    def fork(self, number: int) -> EnumeratedChance:
        """See :meth:`Chance.fork`; what is decided there is part of the walk too."""
        self._children.append(EnumeratedChance(self._script, self._seed, 0, (*self._stream, len(self._children))))
        return self._children[-1]

    def flip(self, probability: float) -> bool:
        return bool(self._decide([1.0 - probability, probability]))

    def draw(self, probabilities: Iterable[float]) -> int:
        return self._decide([float(each) for each in probabilities])

    def uniform(self) -> float:
        return self._noise.random() or 0.5

    def _decide(self, weights: list[float]) -> int:
        total = sum(weights)
        probabilities = [weight / total for weight in weights]
        if self._given > 0:
            self._given -= 1
            return probabilities.index(max(probabilities))
        decided = self._script.get(self._stream, ())
        if self._place == len(decided):
            raise _Undecided(self._stream, probabilities)
        outcome = decided[self._place]
        self._place += 1
        self._probability *= probabilities[outcome]
        return outcome


def distribution(
    procedure: Callable[[EnumeratedChance], Hashable], noise: int = 0, given: int = 0, most: int = _MOST
) -> Distribution:
    """The exact distribution of ``procedure(chance)``.

    Parameters
    ----------
    procedure : callable
    noise, given : int
        See :class:`EnumeratedChance`.
    most : int
        Walks are given up when there are more.

    Raises
    ------
    TooManyOutcomes
    """
    chances: Distribution = defaultdict(float)
    scripts: list[Script] = [{}]
    walks = 0
    while scripts:
        script = scripts.pop()
        chance = EnumeratedChance(script, noise, given)
        try:
            result = procedure(chance)
        except _Undecided as due:
            decided = script.get(due.stream, ())
            scripts += [
                {**script, due.stream: (*decided, outcome)}
                for outcome, probability in enumerate(due.probabilities)
                if probability > 0
            ]
            continue
        chances[result] += chance.probability
        walks += 1
        if walks > most:
            raise TooManyOutcomes(f"there are more than {most:,} outcomes")
    return dict(chances)


def text_distribution(
    model: Model,
    prompt: Sequence[int],
    techniques: Sequence[TechniqueLike],
    new: int,
    noise: int = 0,
    given: int = 0,
    most: int = _MOST,
    see: Callable[[Step], None] = lambda step: None,
    **sampling: Any,
) -> Distribution:
    """The exact distribution of the text that a run generates.

    Parameters
    ----------
    model : Model
        Of few tokens.
    prompt : sequence of int
    techniques : sequence of Technique
    new : int
        Tokens to be generated. Drafts start after the first one, so that 4 are needed for drafts of two levels.
    noise, given, most : int
        See :func:`distribution`; ``given=1`` spares enumerating the first token, which no draft touches.
    see : callable
        Told every step of every walk, of those that were cut short too.
    **sampling
        ``temperature``, ``top_p`` and ``top_k``.

    Returns
    -------
    dict of tuple of int to float
    """

    def procedure(chance: EnumeratedChance) -> tuple[int, ...]:
        run = Run(model, tuple(prompt), new, Sampler(chance=chance, **sampling), 0)
        text: list[int] = []
        for step in Loop(run, Recipe(techniques)).steps(None):
            see(step)
            text += step.tokens
        return tuple(text)

    return distribution(procedure, noise, given, most)


def total_variation(one: Distribution, other: Distribution) -> float:
    """Half the sum of the absolute differences of two distributions: the most by which they differ on any event."""
    return sum(abs(one.get(outcome, 0.0) - other.get(outcome, 0.0)) for outcome in {*one, *other}) / 2
