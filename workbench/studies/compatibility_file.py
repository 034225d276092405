"""The matrix of techniques that go together as one JSON file, and as a table to read."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from workbench.engine.slots import SLOTS
from workbench.errors import TraceError
from workbench.files import write_atomically
from workbench.studies.compatibility import CONDITIONS, STATUSES, matrix, one_slot

PLACE = "data/workbench_data/compatibility"
"""The folder of the files that ship, see :mod:`workbench.studies.compatibility_shards`."""

SYMBOLS = {"exact together": "=", "runs": "+", "excluded": "×", "does not apply": "·", "fails": "!"}


def entries(tree: xr.DataTree) -> dict[str, list[dict[str, str]]]:
    """``conditions`` and ``pairs`` of a matrix, each a list of ``one``, ``other``, ``status`` and ``reason``."""
    names, places = [each["name"] for each in techniques(tree)], list(STATUSES)
    reasons = json.loads(tree.attrs["reasons"])
    status, under = (tree[f"compatibility/{name}"].values for name in ("status", "condition_status"))

    def entry(one: str, other: str, place: Any) -> dict[str, str]:
        reason = reasons.get(f"{one} + {other}", reasons.get(f"{other} + {one}", ""))
        return {"one": one, "other": other, "status": places[int(place)], "reason": reason}

    pairs = zip(*np.triu_indices(len(names), 1))
    return {
        "conditions": [
            entry(name, condition, under[row, column])
            for row, name in enumerate(names)
            for column, condition in enumerate(CONDITIONS)
        ],
        "pairs": [entry(names[row], names[column], status[row, column]) for row, column in pairs],
    }


def techniques(tree: xr.DataTree) -> list[dict[str, Any]]:
    """For each technique of a matrix its ``name``, ``slots``, ``exact`` and ``example``, in order."""
    return json.loads(tree.attrs["techniques"])


def to_json(tree: xr.DataTree) -> str:
    """A matrix as JSON, an entry a line, so that a change shows as the lines it touches."""
    about = {key: tree.attrs[key] for key in ("model", "revision", "dtype", "device")}
    about["versions"] = json.loads(tree.attrs["versions"])
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in about.items()]
    for key, rows in {"techniques": techniques(tree), **entries(tree)}.items():
        inside = ",\n  ".join(json.dumps(row, ensure_ascii=False) for row in rows)
        lines.append(f"{json.dumps(key)}: [\n  {inside}\n]")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def from_json(text: str) -> xr.DataTree:
    """A matrix back from its JSON.

    Raises
    ------
    TraceError
        If it is not one, or not whole.
    """
    try:
        stored = json.loads(text)
        about = {key: stored[key] for key in ("model", "revision", "dtype", "device", "versions")}
        rows = [*stored["conditions"], *stored["pairs"]]
        verdicts = {(row["one"], row["other"]): (row["status"], row["reason"]) for row in rows}
        return matrix(about, stored["techniques"], verdicts)
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, TraceError):
            raise
        raise TraceError(f"this is no matrix of techniques: {error!r}") from error


def write(tree: xr.DataTree, path: str | Path) -> Path:
    """Write a matrix as JSON (``.json``) or as a table for reading (``.md``)."""
    return write_atomically(path, markdown(tree) if Path(path).suffix == ".md" else to_json(tree))


def summary(tree: xr.DataTree) -> str:
    """One sentence of counts."""
    rows = entries(tree)
    counts = Counter(row["status"] for row in rows["pairs"])
    counted = ", ".join(f"{counts[status]} {status}" for status in STATUSES if counts[status])
    return f"{len(rows['pairs'])} pairs of {len(techniques(tree))} techniques on {tree.attrs['model']}: {counted}."


def markdown(tree: xr.DataTree) -> str:
    """The matrix as a page of Markdown: a row for every technique, a column for every slot, and the reasons.

    A cell holds the one status that a technique has with all of a slot, or how often it has which; those that are
    excluded only because both claim one slot are left out of it, and of the reasons.
    """
    listed, rows = techniques(tree), entries(tree)
    slots = {each["name"]: each["slots"] for each in listed}
    by_name = {each["name"]: each for each in listed}
    columns = [slot for slot in SLOTS if any(slot in each["slots"] for each in listed)]
    under = {(row["one"], row["other"]): SYMBOLS[row["status"]] for row in rows["conditions"]}
    met: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for row in rows["pairs"]:
        if one_slot(by_name[row["one"]], by_name[row["other"]]) is None:
            for name, other in ((row["one"], row["other"]), (row["other"], row["one"])):
                met.update({(name, slot): met[name, slot] + Counter([SYMBOLS[row["status"]]]) for slot in slots[other]})
    head = ["technique", *CONDITIONS, *columns]
    lines = [
        "# Which techniques go together",
        "",
        f"Written by `python tests/test_architecture.py` from `{PLACE}`, which `workbench compatibility` makes.",
        "",
        summary(tree),
        "",
        *(f"- `{SYMBOLS[status]}` {status}: {meaning}" for status, meaning in STATUSES.items()),
        "",
        *(f"- {name}: {meaning}" for name, meaning in CONDITIONS.items()),
        "",
        "A slot's column says how a technique goes with those that fill it; that two for one slot do not is not shown.",
        "",
        f"| {' | '.join(head)} |",
        f"|{' --- |' * len(head)}",
    ]
    for name in slots:
        cells = [*(under[name, condition] for condition in CONDITIONS), *(_counts(met[name, slot]) for slot in columns)]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    by_reason: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row in (*rows["conditions"], *rows["pairs"]):
        alike = row["other"] in by_name and one_slot(by_name[row["one"]], by_name[row["other"]])
        if row["reason"] and not alike:
            by_reason[row["status"], row["reason"]].append(f"`{row['one']}` with {row['other']}")
    if by_reason:
        lines += ["", "| status | reason | where |", "| --- | --- | --- |"]
        lines += [
            f"| {status} | {reason.replace('|', '/')} | {_some(where)} |"
            for (status, reason), where in by_reason.items()
        ]
    return "\n".join(lines) + "\n"


def _counts(statuses: Counter[str]) -> str:
    """``=`` where there is one status, ``= 20, + 3`` where there are several."""
    return ", ".join(f"{sign} {statuses[sign]}" if len(statuses) > 1 else sign for sign in SYMBOLS.values()
                     if statuses[sign])  # fmt: skip


def _some(where: list[str], most: int = 6) -> str:
    return ", ".join(where[:most]) + (f" and {len(where) - most} more" if len(where) > most else "")
