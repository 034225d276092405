"""A set of techniques that go together, and their policies for one run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from workbench.engine.composition import name_of, named_by
from workbench.engine.policy_check import check_policy
from workbench.engine.run import Run, TechniqueLike
from workbench.engine.slots import SLOTS, check_slots
from workbench.errors import IncompatibleTechniques, SettingError, WorkbenchError
from workbench.settings import several

if TYPE_CHECKING:
    from workbench.models import Model

# Room in the cache for drafted tokens that will be rejected again.
_DRAFT_SLACK = 64


class Recipe:
    """Techniques checked against one another.

    Raises
    ------
    SettingError
        If what is given is no sequence of techniques, one claims a slot that there is not, or is made of others that do
        not fit it.
    IncompatibleTechniques
        If two claim the same single slot, or one excludes another; the message names both and the slot.
    """

    def __init__(self, techniques: Sequence[TechniqueLike] = ()) -> None:
        self.techniques = tuple(several(techniques, "slots", "technique", "wb.techniques.PromptLookup()"))
        self._started: dict[tuple[int, int], list[Any]] = {}
        owners: dict[str, TechniqueLike] = {}
        for technique in self.techniques:
            check_slots(technique.slots, name_of(technique))
        self._named = [each for technique in self.techniques for each in named_by(technique)]
        for technique in self.members:
            for other in self.members:
                if other is not technique and name_of(other) in technique.excludes:
                    raise IncompatibleTechniques(f"{name_of(technique)} does not go together with {name_of(other)}")
        for technique in self.techniques:
            for slot in technique.slots:
                if slot in owners and SLOTS[slot] == "one":
                    raise IncompatibleTechniques(
                        f"{name_of(owners[slot])} and {name_of(technique)} both claim the slot {slot!r}, which holds "
                        "one: leave one of them out"
                    )
                owners[slot] = technique

    def __repr__(self) -> str:
        return f"<Recipe: {' + '.join(map(repr, self.techniques)) or 'the model alone'}>"

    @property
    def members(self) -> list[TechniqueLike]:
        """The techniques, and those that they are made of."""
        return [*self.techniques, *(each.part for each in self._named)]

    @property
    def stepwise(self) -> bool:
        """Whether anything acts between tokens, so that tokens must be fed one by one to be faithful."""
        return any(technique.stepwise for technique in self.members)

    @property
    def slack(self) -> int:
        """Cache entries to reserve for rejected drafts."""
        return _DRAFT_SLACK if any("draft" in technique.slots for technique in self.techniques) else 0

    def names(self, slot: str) -> str:
        """Names of the techniques of a slot, for a message."""
        return " and ".join(name_of(each) for each in self.techniques if slot in each.slots) or f"the slot {slot}"

    def without(self, *slots: str) -> Recipe:
        """The recipe less the techniques that claim nothing but these slots."""
        return Recipe([technique for technique in self.techniques if not set(technique.slots) <= set(slots)])

    def policies(self, slot: str, run: Run) -> list[Any]:
        """Policies of a slot, in order; each technique starts once for each model of a run."""
        serving = []
        for place, technique in enumerate(self.techniques):
            if slot in technique.slots:
                key = place, id(run.model)
                if key not in self._started:
                    try:
                        self._started[key] = _start(technique, replace(run, parts=[], named=self._named))
                    except BaseException:
                        self.close()
                        raise
                serving.append(self._started[key][0])
        return serving

    def policy(self, slot: str, run: Run) -> Any | None:
        """The policy of a slot that holds one; None if it is empty."""
        serving = self.policies(slot, run)
        return serving[0] if serving else None

    def start_anew(self, slots: Sequence[str], run: Run) -> None:
        """Forget the policies of ``run``'s model that serve none but these slots, so that they start anew."""
        for place, technique in enumerate(self.techniques):
            if set(technique.slots) <= set(slots):
                _let_go(self._started.pop((place, id(run.model)), ()))

    def close(self) -> None:
        """Let every started policy go; one that holds something says so with a ``close`` method."""
        _let_go([policy for started in self._started.values() for policy in started])
        self._started.clear()


def check_place(chosen: int, models: Sequence[Model], recipe: Recipe) -> int:
    """Refuse what a switch chose, where it is no place among its models.

    Raises
    ------
    SettingError
    """
    if not 0 <= chosen < len(models):
        raise SettingError(
            f"{recipe.names('switch')}: choose_model gave {chosen}: give a place in models, 0 … {len(models) - 1}, or "
            "None to stay with the last"
        )
    return chosen


def check_reach(reach: int, limit: int, recipe: Recipe, slot: str, gave: str) -> None:
    """Refuse a draft, or the length of one, that goes further than the limit that its policy was given.

    Raises
    ------
    WorkbenchError
    """
    if reach > limit:
        raise WorkbenchError(
            f"{recipe.names(slot)}: the slot {slot!r} gave {gave} of {reach} tokens depth, and its limit was {limit}: "
            "end it there, as the step adds a token of its own and must stay within the model's positions"
        )


def _start(technique: TechniqueLike, run: Run) -> list[Any]:
    """The policy of a technique, and those that it is made of, in a run of its own."""
    try:
        policy = technique.start(run)
        check_policy(technique, policy)
    except BaseException:
        _let_go(run.parts)
        raise
    return [policy, *run.parts]


def _let_go(policies: Iterable[Any]) -> None:
    """Close those that can be, the first first, whatever becomes of the others."""
    with contextlib.ExitStack() as stack:
        for policy in reversed(list(policies)):
            if hasattr(policy, "close"):
                stack.callback(policy.close)
