"""A study as lines of plain text, narrow enough for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from workbench.metrics.intervals import spell_interval
from workbench.studies.fact_table import briefs, number

WIDTH = 120
_GAP = "  "
_NAME = 24  # least room for the names of runs beside groups

# column: two lines of heading, and the text of a run
_COLUMNS: tuple[tuple[str, str, Callable[[dict[str, Any]], str]], ...] = (
    *briefs("text"),
    *briefs("counts"),
    ("tokens/s", "measured", lambda run: number(run["tokens_per_second"].median, "{:.3g}")),
    ("speed-up", "measured", lambda run: spell_interval(run["speedup"]) or "-"),
    ("n", "", lambda run: f"{run['speedup'].n}/{run['speedup'].of}"),
    ("TTFT", "ms", lambda run: number(1e3 * run["time_to_first_token"].median, "{:.0f}")),
    *briefs("quality"),
)


def lines(
    runs: Sequence[dict[str, Any]],
    question: str,
    remarks: Sequence[str] = (),
    split: Mapping[str, pd.DataFrame] | None = None,
    partial: bool = False,
) -> list[str]:
    """The table of a study in at most :data:`WIDTH` columns, and below it what failed or flipped and the remarks.

    Parameters
    ----------
    runs : sequence of dict
        :attr:`workbench.Study.summary`.
    question : str
        Whether caches were compressed before the question or with the question seen.
    remarks : sequence of str
    split : mapping of str to DataFrame, optional
        Runs (down) by groups of prompts (across) as text, by title; see :func:`workbench.studies.groups.matrices`.
    partial : bool
        Whether the study was stopped before its end.
    """
    cells = [[heading for heading, _, _ in _COLUMNS], [second for _, second, _ in _COLUMNS]]
    cells += [[text(run) for _, _, text in _COLUMNS] for run in runs]
    names = [_printable(run["name"]) for run in runs]
    made = _aligned(["run", "", *names], cells)
    made.insert(2, "-" * max(map(len, made)))
    made.append(
        "n: prompts that the speed-up comes from"
        + "; *: stopped early on some" * any(run["stopped_early"] for run in runs)
    )
    for run in runs:
        if run["failed"] is not None:
            made.append(_shorten(f"{_printable(run['name'])} failed: {_printable(run['failed'])}", WIDTH))
        if run["flips"] > 0:
            made.append(
                f"{_printable(run['name'])}: {run['flips']:.0f} near ties flipped in half precision, "
                f"margin at most {run['flip_margin']:.3g} logits"
            )
    made.append(f"cache: {question}")
    for remark in remarks:
        made += textwrap.wrap(_printable(remark), WIDTH, subsequent_indent="  ")
    for title, frame in (split or {}).items():
        made += ["", title]
        made += _folded(names, [_printable(column) for column in frame.columns], frame.to_numpy().tolist())
    if partial:
        made.append("partial: it was stopped before its end")
    return made


def _aligned(names: Sequence[str], cells: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells under one another, each after its name, which is cut to the room that is left."""
    widths = [max(map(len, column)) for column in zip(*cells)]
    room = WIDTH - sum(widths) - len(_GAP) * len(widths)
    width = min(room, max(map(len, names)))
    return [
        _GAP.join([_shorten(name, width).ljust(width), *(cell.rjust(wide) for cell, wide in zip(row, widths))]).rstrip()
        for name, row in zip(names, cells)
    ]


def _folded(names: Sequence[str], columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table whose columns go on below where they are too many for one width."""
    columns = [_shorten(column, WIDTH // 3) for column in columns]
    widths = [len(_GAP) + max(map(len, column)) for column in zip(columns, *rows)]
    made, start = [], 0
    while start < len(columns):
        end = start + 1
        while end < len(columns) and sum(widths[start : end + 1]) <= WIDTH - _NAME:
            end += 1
        made += _aligned(["run", *names], [columns[start:end], *(row[start:end] for row in rows)])
        start = end
    return made


def _printable(text: str) -> str:
    """Without control characters, which could move the cursor or colour the terminal."""
    return "".join(character if character.isprintable() else " " for character in text)


def _shorten(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
