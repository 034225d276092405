"""Walk through every outcome of a random procedure, with its exact probability."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable


class _Branch(Exception):
    """The script ended where another decision is due."""

    def __init__(self, probabilities: list[float]) -> None:
        self.probabilities = probabilities


class EnumeratedChance:
    """Stands in for :class:`workbench.engine.Chance`: decisions follow a script, and their probability is kept."""

    def __init__(self, script: tuple[int, ...]) -> None:
        self._script, self._place = script, 0
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


def law(procedure: Callable[[EnumeratedChance], Hashable]) -> dict[Hashable, float]:
    """The exact distribution of ``procedure(chance)``."""
    found: dict[Hashable, float] = defaultdict(float)
    scripts: list[tuple[int, ...]] = [()]
    while scripts:
        script = scripts.pop()
        chance = EnumeratedChance(script)
        try:
            result = procedure(chance)
        except _Branch as branch:
            scripts += [(*script, i) for i, p in enumerate(branch.probabilities) if p > 0]
        else:
            found[result] += chance.probability
    return dict(found)
