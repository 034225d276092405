"""Figures and tables as HTML for the page: every figure that a trace holds enough for, none named here."""

from __future__ import annotations

from typing import Any

import pandas as pd

import workbench as wb
from workbench_app.plain import message, note, problem, safe, words


def figures(trace: Any, runs: list[str] | None = None, scheme: str = "auto") -> str:
    """All figures that apply to a trace or a study, in one sandboxed frame.

    Parameters
    ----------
    trace : DataTree
    runs : list of str, optional
        Names of a study's runs, for the figures that show one run each.
    scheme : {"auto", "light", "dark"}
    """
    charts: dict[str, Any] = {}
    problems: list[str] = []
    for name, figure in wb.figures.FIGURES.items():
        if not figure.applies(trace):
            continue
        for run in range(len(runs)) if figure.each_run and runs else [None]:
            if run is not None and figure.shows is not None and not figure.shows(trace, run):
                continue
            title = words(name).capitalize() + (f": {runs[run]}" if run is not None else "")
            try:
                charts[title] = figure.draw(trace) if run is None else figure.draw(trace, run=run)
            except Exception as error:
                problems.append(f"{title}: {message(error)}")
    notes = "".join(problem(text) for text in problems)
    return notes + (wb.figures.fragment(charts, scheme=scheme) if charts else note("There is no figure for this."))


def table(frame: pd.DataFrame) -> str:
    """A table of runs with the quantities down and the runs across; rows of which nothing is known are left out."""
    names = list(frame.index)
    head = "".join(f'<th scope="col">{safe(name)}</th>' for name in names)
    rows = []
    for column in frame.columns:
        cells = [_cell(value) for value in frame[column]]
        if any(cells):
            filled = "".join(f"<td>{safe(cell) if cell else '-'}</td>" for cell in cells)
            rows.append(f'<tr><th scope="row">{safe(column)}</th>{filled}</tr>')
    return (
        f'<div class="scroll"><table class="facts"><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or value == "" or value != value:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.4g}"
    return str(value)
