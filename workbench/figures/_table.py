"""Tables as HTML: numbers rounded alike, gaps shown, and what is wider than its place scrolled with a sign of it."""

from __future__ import annotations

import html
import re
from typing import Any

import numpy as np
import pandas as pd

_TEXT, _SHORT = ' class="text"', ' class="short"'
_WORDS = 20  # letters; a column of texts no longer than that is not broken

STYLE = """
.wide { overflow-x: auto; max-width: 100%; width: fit-content; margin: 8px 0;
  background:
    linear-gradient(to left, var(--background) 40%, transparent) right / 48px 100% no-repeat local,
    linear-gradient(to left, color-mix(in srgb, var(--text) 34%, transparent), transparent) right / 16px 100% no-repeat;
}
.wide::-webkit-scrollbar { height: 11px; }
.wide::-webkit-scrollbar-thumb { background: var(--line); border-radius: 6px; }
table { border-collapse: separate; border-spacing: 0; font-size: 13px; }
caption { text-align: left; padding: 4px 0; opacity: 0.85; }
th, td { border-bottom: 1px solid var(--line); padding: 4px 9px 4px 0; text-align: right; vertical-align: top; }
th { font-weight: 600; } th[scope=col] { vertical-align: bottom; }
th[scope=row], .text { text-align: left; overflow-wrap: break-word; min-width: 8em; }
th[scope=row] { max-width: min(18em, 36vw); }
thead th:first-child, th[scope=row] { position: sticky; left: 0; background: var(--background); }
.short { text-align: left; } td.short { white-space: nowrap; }
"""
"""Needs ``--background``, ``--text`` and ``--line``."""


def table_html(frame: pd.DataFrame, caption: str) -> str:
    """A data frame as a table in a box that scrolls sideways, its first column staying; every character escaped."""
    if not isinstance(frame.index, pd.RangeIndex):
        frame = frame.reset_index()
    kinds = [_kind(list(frame.iloc[:, place])) for place in range(frame.shape[1])]
    head = "".join(
        f'<th scope="col"{kind}>{html.escape(_column(name))}</th>'
        for name, kind in zip(frame.columns, kinds, strict=True)
    )
    rows = []
    for row in frame.itertuples(index=False):
        cells = [f'<th scope="row">{_breakable(value_of(row[0]))}</th>'] if len(row) else []
        cells += [f"<td{kind}>{value_of(value)}</td>" for value, kind in zip(row[1:], kinds[1:], strict=True)]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    label = html.escape(caption, quote=True)
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{label}"><table><caption>{html.escape(caption)}'
        f"</caption><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def value_of(value: Any) -> str:
    """A cell: four digits that matter, thousands apart, a dash for nothing."""
    if value is None or (_numeric(value) and not np.isfinite(value)):
        return "-"
    if _numeric(value) and float(value) != round(float(value)):
        return f"{float(value):.4g}"
    if _numeric(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return html.escape(str(value))


def _breakable(text: str) -> str:
    """A specification that may be broken where its parts end."""
    return re.sub(r"(?<=[:,+=])(?=[^\s])", "<wbr>", text)


def alike(frame: pd.DataFrame, names: tuple[str, ...]) -> dict[str, str]:
    """Of these columns those that say the same of every row, with what they say; none where there is but one row."""
    distinct = {name: {value_of(value) for value in frame[name]} for name in names if name in frame.columns}
    return {name: next(iter(values)) for name, values in distinct.items() if len(frame) > 1 and len(values) == 1}


def _kind(values: list[Any]) -> str:
    """The class of a column's cells: numbers, short texts, or texts to be broken into lines."""
    if any(map(_numeric, values)):
        return ""
    return _SHORT if all(len(str(value)) <= _WORDS for value in values) else _TEXT


def _column(name: Any) -> str:
    return " ".join(str(part) for part in name if str(part)) if isinstance(name, tuple) else str(name)


def _numeric(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)
