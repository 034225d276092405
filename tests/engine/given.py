"""A technique whose slots and policy a test writes."""

from __future__ import annotations

from workbench.techniques import Technique


class Given(Technique):
    """``start(run) -> policy`` given by the test; never registered."""

    slots = ()
    exact = False
    paper = "none"
    name = "given"

    def __init__(self, start, *slots, stepwise=False):
        self._start, self.slots, self.stepwise = start, slots, stepwise
        self.policies = []

    def start(self, run):
        self.policies.append(self._start(run))
        return self.policies[-1]

    @classmethod
    def neutral(cls):
        return cls(lambda run: None)
