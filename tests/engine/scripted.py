"""A drafter whose drafts a test writes."""

from __future__ import annotations

from workbench.engine import Draft
from workbench.techniques import Technique


class Scripted(Technique):
    """``propose(tokens so far, limit) -> Draft`` given by the test; never registered."""

    slots = ("draft",)
    exact = True
    paper = "none"
    name = "scripted"

    def __init__(self, propose):
        self._propose = propose
        self.verifications = []

    def start(self, run):
        return self

    @classmethod
    def neutral(cls):
        return cls(lambda tokens, limit: Draft())

    def propose(self, tokens, limit):
        return self._propose(list(tokens), limit)

    def verified(self, verification):
        self.verifications.append(verification)
