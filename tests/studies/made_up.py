"""Recipes that fail or lie on purpose, and hardware that needs no measuring."""

import torch

from workbench.cost.hardware import Hardware
from workbench.engine import Draft
from workbench.errors import NumericalError
from workbench.settings import settings
from workbench.techniques import Technique

MACHINE = Hardware("made up", {"float32": 1e9, "bfloat16": 2e9}, 1e9, "for tests")
PROMPTS = [[1, 5, 6, 7, 5, 6, 7, 5, 6], [3, 4, 5, 3, 4, 5, 3, 4]]


@settings
class Failing(Technique):
    """Fails after so many tokens of a prompt that begins with ``first``."""

    after: int = 3
    first: int = 1
    kind: str = "numerical"

    slots = ("stop",)
    exact = True
    paper = "none"
    name = "failing"

    def start(self, run):
        return _Fails(self, run)

    @classmethod
    def neutral(cls):
        return cls(after=10**6)


class _Fails:
    def __init__(self, told, run):
        self.told, self.run = told, run

    def stop(self, generated):
        if len(generated) >= self.told.after and self.run.prompt[0] == self.told.first:
            if self.told.kind == "numerical":
                raise NumericalError("the test gave NaN")
            raise IndexError("list index out of range")
        return False


@settings
class Biased(Technique):
    """Adds ``by`` to the logit of one token: a distribution that is known."""

    token: int = 5
    by: float = 3.0

    slots = ("logits",)
    exact = False
    paper = "none"
    name = "biased"

    def start(self, run):
        return self

    def adjust(self, tokens, logits):
        logits = logits.clone()
        logits[self.token] += self.by
        return logits

    @classmethod
    def neutral(cls):
        return cls(by=0.0)


@settings
class Lying(Biased):
    """A bias that says it is exact."""

    exact = True
    name = "lying"


@settings
class Stopping(Failing):
    """Stops after its first token, except on prompts that begin with ``spared``."""

    spared: int = 3

    exact = False
    name = "stopping"

    def start(self, run):
        return _Stops(run.prompt[0] != self.spared)


class _Stops:
    def __init__(self, at_once):
        self.at_once = at_once

    def stop(self, generated):
        return self.at_once


@settings
class Bent(Technique):
    """Exact as long as nothing is sampled: a token drawn by chance is drafted, and taken unverified."""

    slots = ("draft", "accept")
    exact = True
    paper = "none"
    name = "bent"

    def start(self, run):
        return _Takes(run.sampler)

    @classmethod
    def neutral(cls):
        return cls()


class _Takes:
    def __init__(self, sampler):
        self.sampler = sampler

    def propose(self, tokens, limit):
        if self.sampler.greedy:
            return Draft()
        distribution = torch.tensor([[0.5, 0.5]])
        return Draft([self.sampler.chance.draw(distribution[0])], None, distribution)

    def accept(self, draft, logits, sampler):
        return [0], sampler.choose(logits[-1])

    def verified(self, verification):
        pass
