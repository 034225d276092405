"""Whether a policy has the methods of the slots that its technique claims, before a model runs."""

from __future__ import annotations

import functools
import inspect
from typing import Any

from workbench.engine.composition import name_of
from workbench.engine.slots import OPTIONAL, PROTOCOLS
from workbench.errors import SettingError

# A class is looked at once.
_FITTING: set[tuple[type, str]] = set()


def check_policy(technique: Any, policy: Any) -> None:
    """Refuse a policy that a slot of its technique cannot call.

    Raises
    ------
    SettingError
        Naming technique, slot and method, and the arguments that the slot gives it.
    """
    for slot in technique.slots:
        if (type(policy), slot) in _FITTING:
            continue
        for protocol in (PROTOCOLS[slot], *OPTIONAL.get(slot, ())):
            for name, asked in _members(protocol):
                if protocol is PROTOCOLS[slot] or hasattr(policy, name):
                    _check(technique, slot, policy, name, asked, protocol)
        # What stands in the object itself may be another thing in the next one.
        if not getattr(policy, "__dict__", {}).keys() & {name for name, _ in _members(PROTOCOLS[slot])}:
            _FITTING.add((type(policy), slot))


@functools.cache
def _members(protocol: type) -> list[tuple[str, inspect.Signature | None]]:
    """Names of a protocol's methods with how they are called, and of its attributes with None."""
    methods = inspect.getmembers(protocol, inspect.isfunction)
    names = inspect.get_annotations(protocol)
    return [(name, None) for name in names] + [
        (name, inspect.signature(method)) for name, method in methods if not name.startswith("_")
    ]


def _check(technique: Any, slot: str, policy: Any, name: str, asked: inspect.Signature | None, protocol: type) -> None:
    where = f"{name_of(technique)}: the slot {slot!r} asks its policy, {type(policy).__name__}, for"
    if asked is None:
        if not hasattr(policy, name):
            raise SettingError(f"{where} an attribute {name!r}, and it has none")
        return
    arguments = list(asked.parameters)[1:]
    call, method = f"{name}({', '.join(arguments)})", getattr(policy, name, None)
    # A protocol's own methods do nothing; one that is inherited from it is not there.
    if not callable(method) or getattr(method, "__func__", None) is getattr(protocol, name):
        raise SettingError(f"{where} {call}, and it has no such method")
    try:
        given = inspect.signature(method)
    except (TypeError, ValueError):  # of a method that is written in C nothing can be said
        return
    try:
        given.bind(*arguments)
    except TypeError as error:
        raise SettingError(f"{where} {call}, and its own is {name}{given}: {error}") from error
