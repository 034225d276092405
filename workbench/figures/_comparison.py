"""The comparison of a study as HTML: what most readers want to know first, and the rest one click away."""

from __future__ import annotations

import html
from collections.abc import Sequence

import pandas as pd

from workbench.figures._table import STYLE, alike, table_html, value_of
from workbench.figures._text import visible

_FIRST = (
    "run", "equal to baseline [share]", "new tokens", "measured tokens/s", "measured speed-up",
    "measured on [prompts]", "measured time to first token [ms]", "mean accepted tokens", "layers/token",
    "cache", "peak cache [MB]", "KL [nats]", "top-1 agreement", "ROUGE-L", "task score",
)  # fmt: skip
# Columns that say the same of every run in most studies: said once, they leave room for others.
_OFTEN_ALIKE = ("measured on [prompts]", "cache")

# A notebook has colours of its own; what has none falls back to the browser's.
_NOTEBOOK = """
.workbench-study { --background: var(--jp-layout-color0, var(--vscode-editor-background, Canvas));
  --text: var(--jp-content-font-color1, currentColor); --line: var(--jp-border-color2, #8c8c8c);
%s
tbody tr:nth-child(n) { background: transparent !important; } thead th:first-child { text-align: left; }
}
"""


def comparison_html(table: pd.DataFrame, title: str, remarks: Sequence[str] = ()) -> str:
    """A comparison as the output of a notebook cell, its rules kept to itself.

    Parameters
    ----------
    table : DataFrame
        As :meth:`workbench.Study.table` gives it as text.
    title : str
    remarks : sequence of str
    """
    inside = "".join([f"<p><strong>{html.escape(title)}</strong></p>", *comparison(table), remarks_html(remarks)])
    return f'<div class="workbench-study"><style>{_NOTEBOOK % STYLE}</style>{inside}</div>'


def comparison(table: pd.DataFrame) -> list[str]:
    """What most readers want to know first, and everything else one click away."""
    known = {name for name in table.columns if any(value_of(value) not in ("", "-") for value in table[name])}
    same = alike(table, _OFTEN_ALIKE)
    first = [name for name in _FIRST if name in known and name not in same]
    if len(first) < 2 or len(first) == table.shape[1]:
        return [table_html(table, "Each run beside the baseline.")]
    whole = table_html(table, "Everything that was measured, counted and modelled.")
    for_all = "; ".join(f"{html.escape(name)}: {value}" for name, value in same.items() if name in known)
    return [
        table_html(table[first], "Each run beside the baseline."),
        f"<p>The same for every run: {for_all}.</p>" * bool(for_all),
        "<p>Speed is decoding, after the first token. Mean accepted tokens are tokens for each decode step, the "
        "model's own included.</p>",
        f"<details><summary>All columns</summary>{whole}</details>",
    ]


def remarks_html(remarks: Sequence[str]) -> str:
    """Remarks as a list."""
    items = "".join(f"<li>{html.escape(visible(remark, spaces=False))}</li>" for remark in remarks)
    return f"<ul>{items}</ul>" if items else ""
