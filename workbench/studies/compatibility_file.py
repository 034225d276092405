"""The matrix of techniques that go together as the JSON file that ships with the package, and as a table to read."""

from __future__ import annotations

import json
from collections import Counter
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from workbench.errors import TraceError
from workbench.files import write_atomically
from workbench.studies.compatibility import CONDITIONS, STATUSES, matrix

NAME = "compatibility.json"
SYMBOLS = {"exact together": "=", "runs": "+", "excluded": "×", "does not apply": "·", "fails": "!"}


def entries(tree: xr.DataTree) -> dict[str, list[dict[str, str]]]:
    """``conditions`` and ``pairs`` of a matrix, each a list of ``one``, ``other``, ``status`` and ``reason``."""
    names, places = [each["name"] for each in techniques(tree)], list(STATUSES)
    reasons = json.loads(tree.attrs["reasons"])
    status, under = (tree[f"compatibility/{name}"].values for name in ("status", "condition_status"))

    def entry(one: str, other: str, place: Any) -> dict[str, str]:
        said = reasons.get(f"{one} + {other}", reasons.get(f"{other} + {one}", ""))
        return {"one": one, "other": other, "status": places[int(place)], "reason": said}

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
        conditions, pairs = (
            {(row["one"], row["other"]): (row["status"], row["reason"]) for row in stored[key]}
            for key in ("conditions", "pairs")
        )
        return matrix(about, stored["techniques"], conditions, pairs)
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, TraceError):
            raise
        raise TraceError(f"this is no matrix of techniques: {error!r}") from error


def shipped() -> xr.DataTree:
    """The matrix that came with the package: made by ``workbench compatibility`` on a tiny model.

    Raises
    ------
    TraceError
        If it is missing or damaged.
    """
    place = files("workbench_data").joinpath(NAME)
    if not place.is_file():
        raise TraceError(f"{NAME} is missing: make it with workbench compatibility --out data/workbench_data/{NAME}")
    return from_json(place.read_text("utf-8"))


def write(tree: xr.DataTree, path: str | Path) -> Path:
    """Write a matrix as JSON (``.json``) or as a table for reading (``.md``)."""
    return write_atomically(path, markdown(tree) if Path(path).suffix == ".md" else to_json(tree))


def summary(tree: xr.DataTree) -> str:
    """One sentence of counts."""
    rows = entries(tree)
    counts = Counter(row["status"] for row in rows["pairs"])
    said = ", ".join(f"{counts[status]} {status}" for status in STATUSES if counts[status])
    return f"{len(rows['pairs'])} pairs of {len(techniques(tree))} techniques on {tree.attrs['model']}: {said}."


def markdown(tree: xr.DataTree) -> str:
    """The matrix as a page of Markdown: a table of symbols, then every reason that is not a shared slot."""
    listed, rows = techniques(tree), entries(tree)
    names = [each["name"] for each in listed]
    found = {(row["one"], row["other"]): SYMBOLS[row["status"]] for row in (*rows["conditions"], *rows["pairs"])}
    head = ["technique", *CONDITIONS, *map(str, range(1, len(names) + 1))]
    lines = [
        "# Which techniques go together",
        "",
        f"Written by `python tests/test_architecture.py` from `{NAME}`, which `workbench compatibility` makes.",
        "",
        summary(tree),
        "",
        *(f"- `{SYMBOLS[status]}` {status}: {meaning}" for status, meaning in STATUSES.items()),
        "",
        *(f"- {name}: {meaning}" for name, meaning in CONDITIONS.items()),
        "",
        f"| {' | '.join(head)} |",
        f"|{' --- |' * len(head)}",
    ]
    for row, name in enumerate(names):
        cells = [found[name, condition] for condition in CONDITIONS]
        cells += ["" if name == other else found.get((name, other), found.get((other, name))) for other in names]
        lines.append(f"| {row + 1} `{name}` | {' | '.join(cells)} |")
    slots = {each["name"]: each["slots"] for each in listed}
    said = [row for key in rows.values() for row in key if row["reason"] and not _one_slot(row, slots)]
    if said:
        lines += ["", "| | with | status | reason |", "| --- | --- | --- | --- |"]
        lines += [
            f"| `{row['one']}` | {row['other']} | {row['status']} | {row['reason'].replace('|', '/')} |" for row in said
        ]
    return "\n".join(lines) + "\n"


def _one_slot(row: dict[str, str], slots: dict[str, list[str]]) -> bool:
    """Whether two techniques are excluded for no other reason than a slot that both claim."""
    shared = set(slots.get(row["one"], ())) & set(slots.get(row["other"], ()))
    return row["status"] == "excluded" and bool(shared) and "both claim" in row["reason"]
