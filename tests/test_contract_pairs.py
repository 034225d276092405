"""Two techniques in one recipe: refused before anything runs, or together what each of them promises.

Clashes are arithmetic, and one table. Every technique meets the first partner in each other slot in every run of the
tests, and one that changes with ``WORKBENCH_ROTATION`` (by default the day) in ``make test-all``; ``workbench
compatibility`` runs them all, and what it says is in the repository.
"""

import functools
import itertools
import os

import pytest
from contract_cases import (
    NEW,
    PROMPT,
    alone,
    baseline,
    clash,
    example,
    excluded,
    fixed_partner,
    meeting,
    pairs,
    partners,
    rotating_partner,
)
from helpers import run, tokens_of

from workbench.engine import SLOTS, generate
from workbench.engine.recipe import Recipe
from workbench.errors import IncompatibleTechniques
from workbench.models.tiny import tiny
from workbench.registry import TECHNIQUES

FIXED = pairs(fixed_partner)
ROTATION = os.environ["WORKBENCH_ROTATION"]
ROTATING = [pair for pair in pairs(functools.partial(rotating_partner, ROTATION)) if pair not in FIXED]
LEANT_ON = {
    (partner, family)
    for name, slot in itertools.product(TECHNIQUES, SLOTS)
    if (partner := fixed_partner(name, slot))
    for family in meeting(name, partner)
}


def together(pairs):
    """Pairs of techniques, each with the families that the two meet."""
    return [(*pair, family) for pair in pairs for family in meeting(*pair)]


def test_two_that_clash_are_refused_before_anything_runs():
    model, clashing = tiny("llama"), 0
    for one, other in itertools.combinations_with_replacement(TECHNIQUES, 2):
        recipe = [example(one), example(other, -1)]
        if clash(one, other):
            clashing += 1
            with pytest.raises(IncompatibleTechniques) as caught:
                generate(model, PROMPT, recipe)
            message = str(caught.value)
            assert one in message and other in message
            assert excluded(one, other) or any(repr(slot) in message for slot in TECHNIQUES[one].slots)
        else:
            Recipe(recipe)
    assert clashing > len(TECHNIQUES) / 2


def test_every_technique_meets_every_slot_and_their_number_stays_in_bounds():
    met = {name: set() for name in TECHNIQUES}
    for one, other in FIXED:
        assert not clash(one, other)
        met[one].update(TECHNIQUES[other].slots)
        met[other].update(TECHNIQUES[one].slots)
    filled = {slot for kind in TECHNIQUES.values() for slot in kind.slots}
    for name in TECHNIQUES:
        missing = {slot for slot in filled - met[name] if partners(name, slot)}
        assert not missing, f"{name} meets no technique of {missing}"
    for each in (FIXED, ROTATING):
        assert len(each) <= len(TECHNIQUES) * len(filled), "pairs must not grow as the square of the techniques"
    assert pairs(functools.partial(rotating_partner, "1")) == pairs(functools.partial(rotating_partner, "1"))
    assert pairs(functools.partial(rotating_partner, "1")) != pairs(functools.partial(rotating_partner, "2"))


@pytest.mark.parametrize(("name", "family"), sorted(LEANT_ON))
def test_a_partner_that_others_lean_on_fits_the_model(name, family):
    """Else all that is shown with it would be skipped."""
    steps = list(generate(tiny(family), PROMPT, [example(name)], max_new_tokens=NEW, stop_tokens=()))
    assert len(tokens_of(steps)) == NEW


@pytest.mark.parametrize(("one", "other", "family"), together(FIXED))
def test_two_for_different_slots_run_together(one, other, family):
    keep_their_promises(one, other, family)


@pytest.mark.slow
@pytest.mark.parametrize(("one", "other", "family"), together(ROTATING))
def test_two_more_for_different_slots_run_together(one, other, family):
    keep_their_promises(one, other, family)


def keep_their_promises(one, other, family):
    first, second, model = example(one), example(other), tiny(family)
    together = tokens_of(run(model, PROMPT, [first, second], NEW))
    assert len(together) == NEW
    if not set(first.slots) & set(second.slots):
        assert together == tokens_of(run(model, PROMPT, [second, first], NEW)), "the order of two slots must not matter"
    if first.exact and second.exact:
        assert together == tokens_of(baseline(family))
    for exact, changing in ((one, other), (other, one)):
        if TECHNIQUES[exact].exact and not TECHNIQUES[changing].stepwise:
            # What one makes of the model, the exact one must not change further.
            assert together == tokens_of(alone(changing, 0, family))
