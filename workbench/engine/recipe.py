"""A set of techniques that go together, and their policies for one run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from workbench.engine.slots import SLOTS, Run, TechniqueLike, check_slots
from workbench.errors import IncompatibleTechniques
from workbench.settings import several

# Room in the cache for drafted tokens that will be rejected again.
_DRAFT_SLACK = 64


class Recipe:
    """Techniques checked against one another.

    Raises
    ------
    SettingError
        If what is given is no sequence of techniques, or one claims a slot that there is not.
    IncompatibleTechniques
        If two claim the same single slot, or one excludes another; the message names both and the slot.
    """

    def __init__(self, techniques: Sequence[TechniqueLike] = ()) -> None:
        self.techniques = tuple(several(techniques, "slots", "technique", "wb.techniques.PromptLookup()"))
        self._started: dict[tuple[int, int], Any] = {}
        owners: dict[str, TechniqueLike] = {}
        for technique in self.techniques:
            check_slots(technique.slots, _name(technique))
            for other in self.techniques:
                if other is not technique and _name(other) in technique.excludes:
                    raise IncompatibleTechniques(f"{_name(technique)} does not go together with {_name(other)}")
            for slot in technique.slots:
                if slot in owners and SLOTS[slot] == "one":
                    raise IncompatibleTechniques(
                        f"{_name(owners[slot])} and {_name(technique)} both claim the slot {slot!r}, which holds one: "
                        "leave one of them out"
                    )
                owners[slot] = technique

    def __repr__(self) -> str:
        return f"<Recipe: {' + '.join(map(repr, self.techniques)) or 'the model alone'}>"

    @property
    def stepwise(self) -> bool:
        """Whether anything acts between tokens, so that tokens must be fed one by one to be faithful."""
        return any(technique.stepwise for technique in self.techniques)

    @property
    def slack(self) -> int:
        """Cache entries to reserve for rejected drafts."""
        return _DRAFT_SLACK if any("draft" in technique.slots for technique in self.techniques) else 0

    def names(self, slot: str) -> str:
        """Names of the techniques of a slot, for a message."""
        return " and ".join(_name(each) for each in self.techniques if slot in each.slots) or f"the slot {slot}"

    def without(self, *slots: str) -> Recipe:
        """The recipe less the techniques that claim nothing but these slots."""
        return Recipe([technique for technique in self.techniques if not set(technique.slots) <= set(slots)])

    def policies(self, slot: str, run: Run) -> list[Any]:
        """Policies of a slot, in order; each technique starts once for each model of a run."""
        found = []
        for place, technique in enumerate(self.techniques):
            if slot in technique.slots:
                key = place, id(run.model)
                if key not in self._started:
                    self._started[key] = technique.start(run)
                found.append(self._started[key])
        return found

    def policy(self, slot: str, run: Run) -> Any | None:
        """The policy of a slot that holds one; None if it is empty."""
        found = self.policies(slot, run)
        return found[0] if found else None

    def start_anew(self, slots: Sequence[str], run: Run) -> None:
        """Forget the policies of ``run``'s model that serve none but these slots, so that they start anew."""
        for place, technique in enumerate(self.techniques):
            if set(technique.slots) <= set(slots):
                _let_go(self._started.pop((place, id(run.model)), None))

    def close(self) -> None:
        """Let every started policy go; one that holds something says so with a ``close`` method."""
        for policy in self._started.values():
            _let_go(policy)
        self._started.clear()


def _let_go(policy: Any) -> None:
    if hasattr(policy, "close"):
        policy.close()


def _name(technique: TechniqueLike) -> str:
    return getattr(technique, "name", type(technique).__name__)
