"""One offline page with everything a trace or a study says."""

from __future__ import annotations

import contextlib
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from workbench.errors import TraceError
from workbench.figures import _html
from workbench.figures._answers import LEVELS, answers, prompt_text
from workbench.figures._figure import FIGURES, Figure, tree_of
from workbench.figures._runs import labels, runs
from workbench.figures._text import visible
from workbench.trace import words

_TEXT, _SHORT = ' class="text"', ' class="short"'
_WORDS = 20  # letters; a column of texts no longer than that is not broken
MOST_RUNS = 8  # charts of one run each, for so many runs

_STYLE = """
main { max-width: 960px; margin: 0 auto; padding: 16px; }
h1 { font-size: 24px; } h2 { font-size: 19px; margin-top: 32px; } h3 { font-size: 15px; }
figure { margin: 20px 0; }
table { border-collapse: collapse; font-size: 13px; }
caption { text-align: left; padding: 4px 0; opacity: 0.85; }
th, td { border-bottom: 1px solid var(--line); padding: 4px 10px 4px 0; text-align: right; vertical-align: top; }
th { font-weight: 600; } th[scope=row], .text { text-align: left; overflow-wrap: break-word; min-width: 8em; }
.short { text-align: left; } td.short { white-space: nowrap; }
.wide { overflow-x: auto; }
details { margin: 10px 0; } summary { cursor: pointer; font-weight: 600; }
details details { margin-left: 16px; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font: 13px/1.6 "DejaVu Sans Mono", Menlo, Consolas, monospace;
  border-left: 3px solid var(--line); padding: 4px 0 4px 12px; margin: 8px 0; }
.draft { text-decoration: underline; text-underline-offset: 3px; }
""" + "\n".join(
    f".c{level} {{ background: color-mix(in srgb, var(--heat) {level * 7}%, transparent); }}"
    for level in range(1, LEVELS + 1)
)

_FIRST = (
    "run", "equal to baseline [share]", "new tokens", "measured tokens/s", "measured speed-up",
    "measured on [prompts]", "measured time to first token [ms]", "mean accepted tokens", "layers/token",
    "cache", "peak cache [MB]", "KL [nats]", "top-1 agreement", "ROUGE-L", "task score",
)  # fmt: skip


def report(
    trace: Any,
    path: str | Path,
    title: str | None = None,
    figures: Mapping[str, Any] | Sequence[str] | None = None,
    table: pd.DataFrame | None = None,
    remarks: Sequence[str] | None = None,
    more_tables: Mapping[str, pd.DataFrame] | None = None,
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

    Returns
    -------
    Path

    Raises
    ------
    TraceError
        If ``trace`` is neither a trace nor a study.
    """
    tree = tree_of(trace)
    if table is None and callable(getattr(trace, "table", None)):
        table = trace.table(text=True)
    if remarks is None:
        remarks = getattr(trace, "remarks", ())
    title = title or f"{tree.attrs['model']}: {_what(tree)}"
    charts, left_out = (dict(figures), []) if isinstance(figures, Mapping) else _charts(tree, figures)
    specs = {name: _html.specification(chart) for name, chart in charts.items()}
    body = [f"<main>\n<h1>{html.escape(title)}</h1>", _facts(tree)]
    if table is not None:
        body += ["<h2>Comparison</h2>", *_comparison(table), _remarks(remarks), _more(more_tables or {})]
    placed = {}
    body += ["<h2>Figures</h2>"] if specs else []
    for number, (name, spec) in enumerate(specs.items()):
        placed[f"chart-{number}"] = spec
        drawn = _html.place(f"chart-{number}", spec)
        body.append(f'<figure data-figure="{html.escape(name, quote=True)}">{drawn}</figure>')
    body += [f"<p>Not drawn: {html.escape(reason)}.</p>" for reason in left_out]
    body += [_texts(tree), _settings(tree), "</main>"]
    return _html.write(_html.page("\n".join(body), placed, title=title, style=_STYLE), path)


def _what(tree: xr.DataTree) -> str:
    if tree.attrs["kind"] == "study":
        return f"{len(runs(tree))} runs compared"
    said = {"observe": "what the probes saw", "generate": "one run", "compatibility": "which techniques go together"}
    return said[tree.attrs["kind"]]


def _charts(tree: xr.DataTree, names: Sequence[str] | None) -> tuple[dict[str, Any], list[str]]:
    """The figures that apply, and why others of them could not be drawn: a run that failed leaves gaps."""
    charts, left_out = {}, []
    for figure in [FIGURES[name] for name in names] if names is not None else FIGURES.values():
        if not figure.applies(tree):
            continue
        for title, settings in _variants(figure, tree):
            try:
                charts[title] = figure.draw(tree, **settings)
            except TraceError as error:
                left_out.append(f"{title} ({error})")
    return charts, left_out


def _variants(figure: Figure, tree: xr.DataTree) -> list[tuple[str, dict[str, Any]]]:
    if not figure.each_run:
        return [(figure.name, {})]
    return [
        (f"{figure.name}: {name}", {"run": number})
        for number, name in enumerate(labels(tree)[:MOST_RUNS])
        if figure.shows is None or figure.shows(tree, number)
    ]


def _facts(tree: xr.DataTree) -> str:
    attrs = tree.attrs
    named = [name for name in ("model", "dtype", "device", "arithmetic", "seed", "question") if name in attrs]
    facts = (f"{'cache' if name == 'question' else name}: {html.escape(str(attrs[name]))}" for name in named)
    partial = "<p><strong>Partial: it was stopped before its end.</strong></p>" if attrs.get("partial") else ""
    return f"<p>{' · '.join(facts)}</p>{partial}"


def _comparison(table: pd.DataFrame) -> list[str]:
    """What most readers want to know first, and everything else one click away."""
    known = {name for name in table.columns if any(_value(value) not in ("", "-") for value in table[name])}
    first = [name for name in _FIRST if name in known]
    if len(first) < 2 or len(first) == table.shape[1]:
        return [_table(table, "Each run beside the baseline.")]
    whole = _table(table, "Everything that was measured, counted and modelled.")
    return [
        _table(table[first], "Each run beside the baseline."),
        "<p>Speed is decoding, after the first token. Mean accepted tokens are tokens for each decode step, the "
        "model's own included.</p>",
        f"<details><summary>All columns</summary>{whole}</details>",
    ]


def _remarks(remarks: Sequence[str]) -> str:
    items = "".join(f"<li>{html.escape(visible(remark, spaces=False))}</li>" for remark in remarks)
    return f"<ul>{items}</ul>" if items else ""


def _more(tables: Mapping[str, pd.DataFrame]) -> str:
    return "\n".join(
        f"<details{' open' * (number == 0)}><summary>{html.escape(title)}</summary>"
        f"{_table(table, 'In brackets: prompts; n: where a speed-up comes from fewer.')}</details>"
        for number, (title, table) in enumerate(tables.items())
    )


def _table(table: pd.DataFrame, caption: str) -> str:
    if not isinstance(table.index, pd.RangeIndex):
        table = table.reset_index()
    kinds = [_kind(list(table.iloc[:, place])) for place in range(table.shape[1])]
    head = "".join(
        f'<th scope="col"{kind}>{html.escape(_column(name))}</th>'
        for name, kind in zip(table.columns, kinds, strict=True)
    )
    rows = []
    for row in table.itertuples(index=False):
        cells = [f'<th scope="row">{_value(row[0])}</th>'] if len(row) else []
        cells += [f"<td{kind}>{_value(value)}</td>" for value, kind in zip(row[1:], kinds[1:], strict=True)]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return (
        f'<div class="wide"><table><caption>{html.escape(caption)}</caption><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _kind(values: list[Any]) -> str:
    """The class of a column's cells: numbers, short texts, or texts to be broken into lines."""
    if any(map(_numeric, values)):
        return ""
    return _SHORT if all(len(str(value)) <= _WORDS for value in values) else _TEXT


def _column(name: Any) -> str:
    return " ".join(str(part) for part in name if str(part)) if isinstance(name, tuple) else str(name)


def _numeric(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def _value(value: Any) -> str:
    if value is None or (_numeric(value) and not np.isfinite(value)):
        return "-"
    if _numeric(value) and float(value) != round(float(value)):
        return f"{float(value):.4g}"
    if _numeric(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return html.escape(str(value))


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
            tables.append(_table(rows, name))
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
    return _table(pd.DataFrame({"name": list(values), "value": [_plain(value) for value in values.values()]}), caption)
