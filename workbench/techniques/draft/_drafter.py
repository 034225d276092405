"""What every technique that drafts has in common: its settings' side, and its policy's."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import ClassVar, Self

from workbench.engine import Draft, Run, Verification
from workbench.engine.slots import DraftPolicy
from workbench.settings import settings
from workbench.techniques._technique import Technique


class Drafter(DraftPolicy):
    """A draft policy that drafts nothing and learns nothing; those that do write :meth:`propose`, and what they need of
    the rest."""

    def propose(self, tokens: Sequence[int], limit: int) -> Draft:
        """See :meth:`workbench.engine.slots.DraftPolicy.propose`."""
        return Draft()

    def verified(self, verification: Verification) -> None:
        """See :meth:`workbench.engine.slots.DraftPolicy.verified`."""


@settings
class DraftTechnique(Technique):
    """Base of the techniques that draft and do nothing else.

    Attributes
    ----------
    amount : str
        Name of the setting that says how much is drafted at once: at 0 nothing is, nor is anything loaded, which is the
        neutral setting.
    """

    slots = ("draft",)
    exact = True
    amount: ClassVar[str] = "draft"

    def start(self, run: Run) -> Drafter:
        """See :meth:`workbench.techniques.Technique.start`."""
        return self.drafter(run) if getattr(self, self.amount) else Drafter()

    @abc.abstractmethod
    def drafter(self, run: Run) -> Drafter:
        """The policy of a run in which something is drafted.

        Raises
        ------
        SettingError
            If the settings do not fit the model.
        """

    @classmethod
    def neutral(cls) -> Self:
        return cls(**{cls.amount: 0})
