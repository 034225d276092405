"""Walk through every outcome of a random procedure, with its exact probability."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Hashable

from workbench.engine import Run, Sampler
from workbench.engine.loop import Loop
from workbench.engine.recipe import Recipe


class _Branch(Exception):
    """The script ended where another decision is due."""

    def __init__(self, probabilities: list[float]) -> None:
        self.probabilities = probabilities


class EnumeratedChance:
    """Stands in for :class:`workbench.engine.Chance`: decisions follow a script, and their probability is kept; the
    numbers of ``uniform`` are a fixed series, so that a law found is one given these numbers."""

    def __init__(self, script: tuple[int, ...], noise: int = 0) -> None:
        self._script, self._place = script, 0
        self._noise = random.Random(noise)
        self.probability = 1.0

    def _decide(self, probabilities: list[float]) -> int:
        if self._place == len(self._script):
            raise _Branch(probabilities)
        outcome = self._script[self._place]
        self._place += 1
        self.probability *= probabilities[outcome]
        return outcome

    def flip(self, probability: float) -> bool:
        return bool(self._decide([1.0 - probability, probability]))

    def draw(self, probabilities) -> int:
        return self._decide([float(p) for p in probabilities])

    def uniform(self) -> float:
        return self._noise.random() or 0.5


def law(procedure: Callable[[EnumeratedChance], Hashable], noise: int = 0) -> dict[Hashable, float]:
    """The exact distribution of ``procedure(chance)``, given a seed of the uniform numbers it may take."""
    found: dict[Hashable, float] = defaultdict(float)
    scripts: list[tuple[int, ...]] = [()]
    while scripts:
        script = scripts.pop()
        chance = EnumeratedChance(script, noise)
        try:
            result = procedure(chance)
        except _Branch as branch:
            scripts += [(*script, i) for i, p in enumerate(branch.probabilities) if p > 0]
        else:
            found[result] += chance.probability
    return dict(found)


def text_law(model, prompt, techniques, new, **settings) -> dict[Hashable, float]:
    """The exact distribution of the ``new`` tokens that a run generates."""

    def procedure(chance):
        run = Run(model, tuple(prompt), new, Sampler(chance=chance, **settings), 0)
        return tuple(token for step in Loop(run, Recipe(techniques), ()).steps(None) for token in step.tokens)

    return law(procedure)


def assert_same_law(found: dict[Hashable, float], expected: dict[Hashable, float], tolerance: float = 1e-5) -> None:
    """The same outcomes with the same probabilities, and more than one of them."""
    assert len(expected) > 1 and set(found) == set(expected)
    for outcome, probability in expected.items():
        assert abs(found[outcome] - probability) < tolerance, (outcome, found[outcome], probability)
