"""The tab that lists what the registries know: techniques and probes with their papers and settings, and what goes
together."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import gradio as gr

from workbench.listing import by_slot
from workbench.registry import PROBES
from workbench.settings import describe
from workbench.studies.compatibility_file import summary
from workbench.studies.compatibility_shards import shipped
from workbench_app import charts
from workbench_app.controls import QUICK
from workbench_app.plain import caught, note, problem, safe, words


def render(tab: gr.Tab, scheme: gr.Textbox) -> None:
    """Make the tab in the layout that is open, which is that of ``tab``.

    The matrix of what goes together is drawn when the tab is opened: a page with charts is a megabyte, which other
    visitors need not wait for.
    """
    gr.HTML(techniques_html(), elem_id="techniques")
    matrix = gr.HTML(elem_id="compatibility")
    gr.HTML(probes_html(), elem_id="probe-list")
    tab.select(matrix_html, scheme, matrix, **QUICK)


def matrix_html(scheme: str | None) -> str:
    """Which techniques go together, as the matrix that came with the package says."""
    problems: list[str] = []
    with caught(problems):
        tree = shipped()
        return f"<h3>Which go together</h3>{note(summary(tree))}{charts.figures(tree, scheme=scheme or 'auto')}"
    return problem(problems[0])


def techniques_html() -> str:
    """Every registered technique as a row, under the slot that it claims first."""
    rows: list[str | list[str]] = []
    for slot, techniques in by_slot().items():
        rows.append(safe(words(slot)))
        rows += [
            [_code(cls.name), *map(safe, (", ".join(cls.slots), "exact" if cls.exact else "approximate")),
             settings_html(cls), safe(_summary(cls)), safe(cls.paper)]
            for cls in techniques
        ]  # fmt: skip
    return "<h3>Techniques</h3>" + _table(["name", "slots", "greedy output", "settings", "what it does", "paper"], rows)


def probes_html() -> str:
    """Every registered probe as a row."""
    rows = (
        [_code(name), safe(", ".join(map(words, cls.sites))), settings_html(cls),
         safe(_summary(cls)), safe(cls.paper)]
        for name, cls in PROBES.items()
    )  # fmt: skip
    return "<h3>Probes</h3>" + _table(["name", "sites", "settings", "what it measures", "paper"], rows)


def settings_html(cls: type) -> str:
    """Settings with default, bounds and meaning, one a line."""
    lines = [
        f"<code>{safe(name)}={safe(field.get('default', ''))}</code> {safe(_range(field))}"
        for name, field in describe(cls).items()
    ]
    return "<br>".join(lines) or "none"


def _range(field: dict[str, Any]) -> str:
    low, high = field.get("minimum", field.get("exclusiveMinimum")), field.get("maximum", field.get("exclusiveMaximum"))
    bounds = ", ".join(str(choice) for choice in field.get("enum", ()))
    if not bounds and (low is not None or high is not None):
        bounds = f"{'…' if low is None else low} to {'…' if high is None else high}"
    return f"{field.get('description', '')}{f' ({bounds})' if bounds else ''}"


def _summary(cls: type) -> str:
    return (cls.__doc__ or "").strip().partition("\n\n")[0].replace("\n", " ")


def _code(name: str) -> str:
    return f"<code>{safe(name)}</code>"


def _table(head: list[str], rows: Iterable[str | list[str]]) -> str:
    """A table of rows of cells; a row that is one text is a heading of those below it."""
    cells = "".join(f'<th scope="col">{safe(title)}</th>' for title in head)
    wide = f'<th scope="rowgroup" colspan="{len(head)}">'
    lines = (f"{wide}{row}</th>" if isinstance(row, str) else "".join(f"<td>{c}</td>" for c in row) for row in rows)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    inner = f"<thead><tr>{cells}</tr></thead><tbody>{body}</tbody>"
    return f'<div class="scroll"><table class="facts wide">{inner}</table></div>'
