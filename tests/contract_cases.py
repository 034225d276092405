"""What the contract tests run over: techniques, examples, families and partners; and runs that several of them judge.

A run that is only looked at is made once in a process. ``sharing.py`` keeps the tests of one technique together.
"""

from __future__ import annotations

import copy
import functools
import os
import random

import torch
from helpers import random_tokens, run

import workbench.techniques  # noqa: F401  fills the registry
from workbench.engine import SLOTS, generate
from workbench.errors import SettingError
from workbench.models import FAMILIES
from workbench.models.load import wrap
from workbench.models.tiny import tiny as tiny_on_host
from workbench.registry import TECHNIQUES

DEVICE = os.environ.get("WORKBENCH_TEST_DEVICE", "")
"""Where the models of the contract tests are, as ``cuda``; empty for the CPU."""

NEW = 24
# Long enough that every example has something to evict, to skip and to look up: the second half repeats the first.
PROMPT = tuple(random_tokens(24) * 2)
EXAMPLES = [(name, place) for name, kind in TECHNIQUES.items() for place in range(len(kind.examples()))]

# One family of each kind of block: plain, sliding window and two rotary tables, learned positions, parallel, experts.
KINDS = ("llama", "gemma3_text", "gpt2", "gpt_neox", "mixtral")
EVERY_TECHNIQUE = (*KINDS, "gemma2", "gpt_oss")
"""Families that meet every technique: the kinds, soft caps and learned sinks."""
ENTERING = {"weights", "context", "depth", "mlp", "experts", "prefill_attention", "attention", "evict", "store"}
"""Slots whose techniques enter blocks or caches: they meet every family."""
WAYS = ("prompt_lookup", "token_recycling", "hidden_transfer")
"""Drafters that meet every family for all of them: what they ask of a model is a chain, a tree, and rows beside it."""
UNFORCED = {"draft", "draft_length", "accept", "stop"}
"""Slots that teacher forcing leaves out, see :func:`workbench.teacher_force`."""


def families(name: str) -> tuple[str, ...]:
    """The families that a technique meets."""
    return tuple(FAMILIES) if name in WAYS or ENTERING & set(TECHNIQUES[name].slots) else EVERY_TECHNIQUE


def forced(name: str) -> bool:
    """Whether a teacher-forced run has the technique in it."""
    return not set(TECHNIQUES[name].slots) <= UNFORCED


def example(name: str, place: int = 0):
    """One of the settings that suit the tiny models."""
    return TECHNIQUES[name].examples()[place]


@functools.cache
def baseline(family: str) -> tuple:
    """The steps of a greedy run without a technique."""
    return tuple(run(tiny(family), PROMPT, new=NEW))


@functools.lru_cache(maxsize=256)
def alone(name: str, place: int, family: str) -> tuple:
    """The steps of a greedy run with one technique; the test is skipped where it does not fit."""
    return tuple(run(tiny(family), PROMPT, [example(name, place)], NEW))


@functools.cache
def tiny(family: str):
    """A tiny model on :data:`DEVICE`."""
    model = tiny_on_host(family)
    if not DEVICE:
        return model
    with torch.no_grad():
        return wrap(copy.deepcopy(model.hf).to(DEVICE), None, model.name, model.revision)


# Partners


def shared_slot(one: str, other: str) -> str | None:
    """The first slot that both claim and that holds one."""
    taken = TECHNIQUES[one].slots
    return next((slot for slot in TECHNIQUES[other].slots if slot in taken and SLOTS[slot] == "one"), None)


def excluded(one: str, other: str) -> bool:
    """Whether one of two techniques excludes the other."""
    return one in TECHNIQUES[other].excludes or other in TECHNIQUES[one].excludes


def clash(one: str, other: str) -> bool:
    """Whether a recipe refuses two techniques; that is arithmetic, and nothing runs."""
    return shared_slot(one, other) is not None or excluded(one, other)


def partners(name: str, slot: str) -> list[str]:
    """Techniques of a slot that go together with another, in the order of registration."""
    return [
        other for other, kind in TECHNIQUES.items() if slot in kind.slots and other != name and not clash(name, other)
    ]


def meeting(*names: str) -> tuple[str, ...]:
    """The families that techniques meet together: one with experts where any of them chooses among those."""
    slots = {slot for name in names for slot in TECHNIQUES[name].slots}
    return ("qwen2_moe",) if "experts" in slots else ("llama", "gemma3_text")


@functools.cache
def fits(name: str, family: str) -> bool:
    """Whether a technique runs on a tiny model at all."""
    try:
        next(generate(tiny(family), PROMPT, [example(name)], max_new_tokens=1))
    except SettingError:
        return False
    return True


def fixed_partner(name: str, slot: str) -> str | None:
    """The first of a slot that goes together with a technique, and that fits the models that they meet."""
    among = partners(name, slot)
    return next((other for other in among if fits(other, meeting(name, other)[0])), None)


def rotating_partner(seed: str, name: str, slot: str) -> str | None:
    """Any that goes together with a technique, drawn by a seed, the technique and the slot."""
    among = partners(name, slot)
    return random.Random(f"{seed} {name} {slot}").choice(among) if among else None


def pairs(partner) -> list[tuple[str, str]]:
    """Every technique with ``partner(name, slot)``, each pair once: as many as techniques times slots, no more."""
    order = list(TECHNIQUES)
    met = ((name, partner(name, slot)) for name in order for slot in SLOTS)
    return list(dict.fromkeys(tuple(sorted(pair, key=order.index)) for pair in met if pair[1] is not None))
