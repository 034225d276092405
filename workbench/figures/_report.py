"""One offline page with everything a trace or a study says."""

from __future__ import annotations

import contextlib
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr

from workbench.errors import TraceError
from workbench.figures import _html
from workbench.figures._answers import LEVELS, answers, prompt_text
from workbench.figures._comparison import comparison, remarks_html
from workbench.figures._figure import FIGURES, Figure, tree_of
from workbench.figures._runs import index_of, labels, runs
from workbench.figures._table import STYLE, table_html
from workbench.figures._text import visible
from workbench.trace import words

MOST_RUNS = 8  # charts of one run each, for so many runs

_STYLE = (
    STYLE
    + """
main { max-width: 1240px; margin: 0 auto; padding: 16px; }
main > p, main > ul, pre { max-width: 960px; }
h1 { font-size: 24px; } h2 { font-size: 19px; margin-top: 32px; } h3 { font-size: 15px; }
figure { margin: 20px 0; }
details { margin: 10px 0; } summary { cursor: pointer; font-weight: 600; }
details details { margin-left: 16px; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font: 13px/1.6 "DejaVu Sans Mono", Menlo, Consolas, monospace;
  border-left: 3px solid var(--line); padding: 4px 0 4px 12px; margin: 8px 0; }
.draft { text-decoration: underline; text-underline-offset: 3px; }
"""
    + "\n".join(
        f".c{level} {{ background: color-mix(in srgb, var(--heat) {level * 7}%, transparent); }}"
        for level in range(1, LEVELS + 1)
    )
)


def report(
    trace: Any,
    path: str | Path,
    title: str | None = None,
    figures: Mapping[str, Any] | Sequence[str] | None = None,
    table: pd.DataFrame | None = None,
    remarks: Sequence[str] | None = None,
    more_tables: Mapping[str, pd.DataFrame] | None = None,
    own_figures: Sequence[int | str] | None = None,
) -> Path:
    """Write a trace or a study as one file that opens offline.

    It holds the comparison table, all figures that the trace has the data for, every prompt and answer with the tokens
    shaded by what they cost, and the settings and versions.

    Parameters
    ----------
    trace : DataTree or Study
    path : path
        Its folder is made if it is missing.
    title : str, optional
    figures : mapping of str to chart, or sequence of str, optional
        Charts by title, or names of figures; all that apply if left out.
    table : DataFrame, optional
        The comparison; a study's own ``table()`` if left out.
    remarks : sequence of str, optional
        Sentences under the comparison; a study's own if left out.
    more_tables : mapping of str to DataFrame, optional
        Further tables by title, each folded but the first.
    own_figures : sequence of int or str, optional
        Runs, by number or name, that have the figures of a single run; by default the first eight, and the page says so
        where there are more.

    Returns
    -------
    Path

    Raises
    ------
    TraceError
        If ``trace`` is neither a trace nor a study, or has no such run.
    """
    tree = tree_of(trace)
    if table is None and callable(getattr(trace, "table", None)):
        table = trace.table(text=True)
    if remarks is None:
        remarks = getattr(trace, "remarks", ())
    title = title or f"{tree.attrs['model']}: {_what(tree)}"
    if isinstance(figures, Mapping):
        charts, left_out = dict(figures), []
    else:
        own = range(min(MOST_RUNS, len(runs(tree)))) if own_figures is None else own_figures
        charts, left_out = _charts(tree, figures, [index_of(tree, run) for run in own])
    specs = {name: _html.specification(chart) for name, chart in charts.items()}
    body = [f"<main>\n<h1>{html.escape(title)}</h1>", _facts(tree)]
    if table is not None:
        body += ["<h2>Comparison</h2>", *comparison(table), remarks_html(remarks), _more(more_tables or {})]
    placed = {}
    body += ["<h2>Figures</h2>"] if specs else []
    for number, (name, spec) in enumerate(specs.items()):
        placed[f"chart-{number}"] = spec
        drawn = _html.place(f"chart-{number}", spec)
        body.append(f'<figure data-figure="{html.escape(name, quote=True)}">{drawn}</figure>')
    body += [f"<p>{html.escape(visible(reason, spaces=False))}</p>" for reason in left_out]
    body += [_texts(tree), _settings(tree), "</main>"]
    return _html.write(_html.page("\n".join(body), placed, title=title, style=_STYLE), path)


def _what(tree: xr.DataTree) -> str:
    if tree.attrs["kind"] == "study":
        return f"{len(runs(tree))} runs compared"
    kinds = {"observe": "what the probes saw", "generate": "one run", "compatibility": "which techniques go together"}
    return kinds[tree.attrs["kind"]]


def _charts(tree: xr.DataTree, names: Sequence[str] | None, own: list[int]) -> tuple[dict[str, Any], list[str]]:
    """The figures that apply, and in words what is not among them: a run that failed leaves gaps."""
    charts, left_out, waiting = {}, [], []
    for figure in [FIGURES[name] for name in names] if names is not None else FIGURES.values():
        if not figure.applies(tree):
            continue
        waiting += [figure] * figure.each_run
        for title, settings in _variants(figure, tree, own):
            try:
                charts[title] = figure.draw(tree, **settings)
            except TraceError as error:
                left_out.append(f"Not drawn: {title} ({error}).")
    names_of = labels(tree)
    others = [name for number, name in enumerate(names_of) if number not in own]
    if waiting and others:
        left_out.insert(
            0,
            f"The figures of a single run are drawn for {len(own)} of {len(names_of)} runs "
            f"({', '.join(names_of[number] for number in own)}), and not for {', '.join(others)}. To have those: "
            f"save_html(path, own_figures=[names of runs]), or workbench.figures.{waiting[0].name}(study, run=name).",
        )
    return charts, left_out


def _variants(figure: Figure, tree: xr.DataTree, own: list[int]) -> list[tuple[str, dict[str, Any]]]:
    if not figure.each_run:
        return [(figure.name, {})]
    names = labels(tree)
    return [
        (f"{figure.name}: {names[number]}", {"run": number})
        for number in own
        if figure.shows is None or figure.shows(tree, number)
    ]


def _facts(tree: xr.DataTree) -> str:
    attrs = tree.attrs
    named = [name for name in ("model", "dtype", "device", "arithmetic", "seed", "question") if name in attrs]
    facts = (f"{'cache' if name == 'question' else name}: {html.escape(str(attrs[name]))}" for name in named)
    partial = "<p><strong>Partial: it was stopped before its end.</strong></p>" if attrs.get("partial") else ""
    return f"<p>{' · '.join(facts)}</p>{partial}"


def _more(tables: Mapping[str, pd.DataFrame]) -> str:
    return "\n".join(
        f"<details{' open' * (number == 0)}><summary>{html.escape(title)}</summary>"
        f"{table_html(table, 'In brackets: prompts; n: where a speed-up comes from fewer.')}</details>"
        for number, (title, table) in enumerate(tables.items())
    )


def _texts(tree: xr.DataTree) -> str:
    if "text" in tree.children:
        return answers(tree)
    if "tokens" in tree.children:
        text = "".join(words(tree)(tree["tokens"].to_dataset()))
        count = tree["tokens"].sizes["token"]
        opened = " open" if count <= 1000 else ""
        return f"<h2>Prompt</h2>\n<details{opened}><summary>{count:,} tokens</summary>{prompt_text(text)}</details>"
    return ""


def _settings(tree: xr.DataTree) -> str:
    plain, tables = {}, []
    for name, value in tree.attrs.items():
        if name in ("vocabulary", "pieces", "prompts"):
            continue
        with contextlib.suppress(ValueError):
            value = json.loads(value) if isinstance(value, str) else value
        if isinstance(value, dict):
            tables.append(_pairs(name, value))
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            rows = pd.DataFrame([{key: _plain(part) for key, part in row.items()} for row in value])
            tables.append(table_html(rows, name))
        else:
            plain[name] = value
    inside = "\n".join([_pairs("settings", plain), *tables])
    return f"<h2>Settings and versions</h2>\n<details open><summary>Settings</summary>\n{inside}\n</details>"


def _plain(value: Any) -> str:
    """A setting as a person would write it."""
    if isinstance(value, list):
        return "; ".join(_plain(part) or "none" for part in value)
    if isinstance(value, dict):
        return ", ".join(f"{name}={_plain(part)}" for name, part in value.items())
    if isinstance(value, float) and abs(value) >= 1e6:
        return f"{value:.4g}"
    return "" if value is None else str(value)


def _pairs(caption: str, values: Mapping[str, Any]) -> str:
    return table_html(
        pd.DataFrame({"name": list(values), "value": [_plain(value) for value in values.values()]}), caption
    )
