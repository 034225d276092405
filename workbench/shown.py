"""Facts about an object as a notebook shows them: a few rows of plain text, whatever stands in it."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

_LONGEST = 600  # letters of a value


def facts_html(title: str, facts: Mapping[str, Any]) -> str:
    """A heading and a row for each fact; every character escaped, long values cut with a sign of it."""
    rows = "".join(
        f'<tr><th scope="row" style="text-align:left">{_safe(name)}</th>'
        f'<td style="text-align:left; white-space:pre-wrap">{_safe(value)}</td></tr>'
        for name, value in facts.items()
    )
    return f"<p><strong>{_safe(title)}</strong></p><table><tbody>{rows}</tbody></table>"


def _safe(value: Any) -> str:
    text = f"{value:,}" if type(value) is int else str(value)
    more = f"… ({len(text) - _LONGEST:,} more characters)" if len(text) > _LONGEST else ""
    return html.escape(text[:_LONGEST] + more, quote=True)
