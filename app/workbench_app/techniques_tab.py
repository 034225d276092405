"""The tab that lists what the registries know: techniques and probes with their papers and settings, and what goes
together."""

from __future__ import annotations

from typing import Any

import gradio as gr

from workbench.registry import PROBES, TECHNIQUES
from workbench.settings import describe
from workbench.studies.compatibility_file import summary
from workbench.studies.compatibility_shards import shipped
from workbench_app import charts
from workbench_app.controls import QUICK
from workbench_app.plain import caught, note, problem, safe


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
    """Every registered technique as a row."""
    rows = (
        [_code(name), *map(safe, (", ".join(cls.slots), "exact" if cls.exact else "approximate")), settings_html(cls),
         safe(_summary(cls)), safe(cls.paper)]
        for name, cls in TECHNIQUES.items()
    )  # fmt: skip
    return "<h3>Techniques</h3>" + _table(["name", "slots", "greedy output", "settings", "what it does", "paper"], rows)


def probes_html() -> str:
    """Every registered probe as a row."""
    rows = (
        [_code(name), safe(", ".join(words.replace("_", " ") for words in cls.sites)), settings_html(cls),
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


def _table(head: list[str], rows: Any) -> str:
    cells = "".join(f'<th scope="col">{safe(title)}</th>' for title in head)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    inner = f"<thead><tr>{cells}</tr></thead><tbody>{body}</tbody>"
    return f'<div class="scroll"><table class="facts wide">{inner}</table></div>'
