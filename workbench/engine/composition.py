"""Techniques made of others: a setting names one, and the run starts it for its owner."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from workbench.errors import SettingError
from workbench.registry import TECHNIQUES
from workbench.settings import parse, references


def name_of(technique: Any) -> str:
    """What a technique is called in a message."""
    return getattr(technique, "name", type(technique).__name__)


def part_of(owner: Any, setting: str, within: tuple[str, ...] = ()) -> Any | None:
    """The technique that a setting of another one names, ``outside("technique", …)``; None if it is empty.

    Parameters
    ----------
    owner : Technique
    setting : str
    within : tuple of str
        Names of the techniques that the owner itself is a part of.

    Raises
    ------
    SettingError
        If it is not one technique, claims a slot that its owner does not fill, or is a part of itself, at any depth.
    """
    spec = getattr(owner, setting)
    if not spec:
        return None
    named, slots = parse(spec, TECHNIQUES), set(owner.slots)
    kinds: Mapping[str, Any] = TECHNIQUES
    inside = (*within, name_of(owner))
    if len(named) == 1 and set(named[0].slots) <= slots and named[0].name not in inside:
        return named[0]
    fitting = (name for name, kind in kinds.items() if set(kind.slots) <= slots and name not in inside)
    raise SettingError(
        f"{name_of(owner)}: {setting}={spec!r} must name one other technique that claims no slot but "
        f"{' and '.join(owner.slots)}, and not {' or '.join(inside)}; take {next(fitting, 'none')}, say"
    )


class Named(NamedTuple):
    """A technique that a setting of its owner names."""

    owner: Any
    setting: str
    part: Any


def parts_of(technique: Any, within: tuple[str, ...] = ()) -> Iterator[Any]:
    """All techniques that the settings of one name, those that they name in turn included; see :func:`named_by`."""
    return (each.part for each in named_by(technique, within))


def named_by(technique: Any, within: tuple[str, ...] = ()) -> Iterator[Named]:
    """The same with the settings that name them.

    Raises
    ------
    SettingError
        See :func:`part_of`.
    """
    for setting, what, _ in references(technique):
        part = part_of(technique, setting, within) if what == "technique" else None
        if part is not None:
            yield Named(technique, setting, part)
            yield from named_by(part, (*within, name_of(technique)))
