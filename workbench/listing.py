"""Techniques, probes and recipes as rows and as text, straight from the registry: for the shell and the README."""

from __future__ import annotations

import importlib
from typing import Any

from workbench.registry import PROBES, TECHNIQUES, Registry
from workbench.settings import describe

_REGISTRIES = {"techniques": TECHNIQUES, "probes": PROBES}


def registered(kind: str) -> Registry:
    """The registry of ``techniques``, ``probes`` or ``training``, filled."""
    module = importlib.import_module(f"workbench.{kind}")
    return module.RECIPES if kind == "training" else _REGISTRIES[kind]


def by_slot() -> dict[str, list[type]]:
    """Registered techniques under the slot they claim first; slots in the order of the engine, empty ones left out."""
    slots = importlib.import_module("workbench.techniques").SLOTS
    members: dict[str, list[type]] = {slot: [] for slot in slots}
    for technique in TECHNIQUES.values():
        members[technique.slots[0]].append(technique)
    return {slot: techniques for slot, techniques in members.items() if techniques}


def rows(kind: str) -> list[dict[str, Any]]:
    """For each class its ``name``, ``class``, ``summary``, ``paper`` and ``settings`` (as JSON schema); of a technique
    also ``slots``, ``exact`` and ``synchronisations`` (see :mod:`workbench.studies.synchronisations`; None of one that
    was not counted), of a probe ``sites``. Techniques stand by slot, all others by name."""
    registry, listed = registered(kind), []
    if kind == "techniques":
        counted = importlib.import_module("workbench.studies.synchronisations").stored()
    techniques = [cls for members in by_slot().values() for cls in members] if kind == "techniques" else []
    for cls in techniques or (registry[name] for name in sorted(registry)):
        row = {"name": cls.name, "class": cls.__name__, "summary": (cls.__doc__ or "").strip().splitlines()[0]}
        if kind == "techniques":
            waits = counted.get(cls.name)
            row |= {"slots": list(cls.slots), "exact": cls.exact}
            row |= {"synchronisations": None if waits is None else waits.row()}
        elif kind == "probes":
            row |= {"sites": list(cls.sites)}
        listed.append({**row, "paper": cls.paper, "settings": describe(cls)})
    return listed


def markdown() -> str:
    """The README's table of techniques: a slot is named where its first technique stands."""
    lines = ["| slot | name | also fills | exact | paper |", "| --- | --- | --- | --- | --- |"]
    for slot, techniques in by_slot().items():
        for place, cls in enumerate(techniques):
            cells = "" if place else f"**{slot}**", f"`{cls.name}`", ", ".join(cls.slots[1:])
            lines.append(f"| {' | '.join((*cells, 'yes' if cls.exact else 'no', cls.paper))} |")
    return "\n".join(lines)


def plain(kind: str) -> str:
    """All of them with their settings, for a terminal; techniques under the names of their slots."""
    lines, slot = [], ""
    for row in rows(kind):
        if kind == "techniques" and row["slots"][0] != slot:
            slot = row["slots"][0]
            lines += [*[""] * bool(lines), f"{slot}:"]
        facts = ", ".join(row.get("sites") or row.get("slots") or ())
        if kind == "techniques":
            facts += "; exact" if row["exact"] else "; may differ"
        lines += [f"{row['name']}  ({facts})" if facts else row["name"], f"    {row['summary']}", f"    {row['paper']}"]
        for name, setting in row["settings"].items():
            line = f"{name}={setting.get('default')}  {_bounds(setting)}{setting.get('description', '')}"
            lines.append(f"      {line.rstrip()}")
    return "\n".join(lines)


def _bounds(setting: dict[str, Any]) -> str:
    if "enum" in setting:
        return f"({' | '.join(map(str, setting['enum']))}) "
    low = setting.get("minimum", setting.get("exclusiveMinimum"))
    high = setting.get("maximum", setting.get("exclusiveMaximum"))
    return "" if low is None and high is None else f"({'' if low is None else low} … {'' if high is None else high}) "
