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


def rows(kind: str) -> list[dict[str, Any]]:
    """For each class its ``name``, ``class``, ``summary``, ``paper`` and ``settings`` (as JSON schema); of a technique
    also ``slots`` and ``exact``, of a probe ``sites``."""
    found = []
    for name, cls in registered(kind).items():
        row = {"name": name, "class": cls.__name__, "summary": (cls.__doc__ or "").strip().splitlines()[0]}
        if kind == "techniques":
            row |= {"slots": list(cls.slots), "exact": cls.exact}
        elif kind == "probes":
            row |= {"sites": list(cls.sites)}
        found.append({**row, "paper": cls.paper, "settings": describe(cls)})
    return found


def markdown() -> str:
    """The README's table of techniques."""
    lines = ["| name | slots | exact | paper |", "| --- | --- | --- | --- |"]
    for row in rows("techniques"):
        exact = "yes" if row["exact"] else "no"
        lines.append(f"| `{row['name']}` | {', '.join(row['slots'])} | {exact} | {row['paper']} |")
    return "\n".join(lines)


def plain(kind: str) -> str:
    """All of them with their settings, for a terminal."""
    lines = []
    for row in rows(kind):
        facts = ", ".join(row.get("sites") or row.get("slots") or ())
        if kind == "techniques":
            facts += "; exact" if row["exact"] else "; may differ"
        lines += [f"{row['name']}  ({facts})" if facts else row["name"], f"    {row['summary']}", f"    {row['paper']}"]
        for name, setting in row["settings"].items():
            said = f"{name}={setting.get('default')}  {_bounds(setting)}{setting.get('description', '')}"
            lines.append(f"      {said.rstrip()}")
    return "\n".join(lines)


def _bounds(setting: dict[str, Any]) -> str:
    if "enum" in setting:
        return f"({' | '.join(map(str, setting['enum']))}) "
    low = setting.get("minimum", setting.get("exclusiveMinimum"))
    high = setting.get("maximum", setting.get("exclusiveMaximum"))
    return "" if low is None and high is None else f"({'' if low is None else low} … {'' if high is None else high}) "
