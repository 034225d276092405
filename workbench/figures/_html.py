"""Offline pages around charts: one file, or one frame, that asks nobody for anything.

Vega, Vega-Lite and Vega-Embed are written into a page once, from the copy that vl-convert carries. A content security
policy then forbids the page every connection, and names by their SHA-256 the two scripts that may run: a prompt's text
that found a way into the page would still not be run. Vega compiles expressions with ``eval``; the page uses its
interpreter instead, so the policy needs no ``unsafe-eval``. Styles stay ``unsafe-inline``: Vega-Embed writes its own.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import html
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import vl_convert

from workbench.figures._theme import BACKGROUNDS, INKS, configuration
from workbench.files import write_atomically

SCHEMES = ("auto", "light", "dark")

_DRAW = """
const page = JSON.parse(document.getElementById("workbench-charts").textContent);
const preference = matchMedia("(prefers-color-scheme: dark)");
let drawn = [], turn = 0;
async function draw() {
  const mine = ++turn;
  const scheme = page.scheme === "auto" ? (preference.matches ? "dark" : "light") : page.scheme;
  drawn.splice(0).forEach(view => view.finalize());
  for (const [place, spec] of Object.entries(page.charts)) {
    const config = "config" in spec ? spec.config : page.configurations[scheme];
    const result = await vegaEmbed(document.getElementById(place), {...spec, config}, {
      mode: "vega-lite", renderer: "svg", ast: true, tooltip: {theme: scheme},
      actions: {export: true, source: false, compiled: false, editor: false},
    });
    if (mine !== turn) { result.finalize(); return; }
    drawn.push(result);
  }
  document.documentElement.dataset.drawn = scheme;
}
preference.addEventListener("change", draw);
draw();
"""

_STYLE = """
:root { color-scheme: %(mode)s; }
body { %(light)s font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif;
  background: var(--background); color: var(--text); margin: 0; padding: 0; }
%(dark)s
.chart { overflow-x: auto; max-width: 100%%; }
.chart .vega-embed { padding-right: 34px; }
.chart .vega-embed summary { opacity: 0.6; }
.vega-bindings { font-size: 13px; margin: 4px 8px; }
.vega-bind-name { margin-right: 8px; }
"""


@functools.cache
def _library() -> str:
    """Vega-Embed with all it needs, as the text of one script element."""
    script = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return script.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def embed(value: Any) -> str:
    """JSON that can stand inside any script element: no ``<``, and nothing outside ASCII."""
    return json.dumps(value, ensure_ascii=True, separators=(",", ":")).replace("<", "\\u003c")


def specification(chart: Any) -> dict[str, Any]:
    """A chart as its Vega-Lite specification; the house's own configuration is left to the page."""
    spec = dict(chart) if isinstance(chart, Mapping) else chart.to_dict()
    given, ours = spec.get("config"), configuration()
    # Altair's own theme adds to "view" and nothing else; a configuration that differs in more is somebody's choice.
    if given is not None and {**given, "view": ours["view"]} == ours:
        del spec["config"]
    return spec


def _hash(script: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() + "'"


def _variables(ink: str) -> str:
    text, line = INKS[ink]
    return f"--background: {BACKGROUNDS[ink]}; --text: {text}; --line: {line}; --heat: #2f81c4;"


def page(
    body: str, charts: Mapping[str, Any] | None = None, *, title: str, style: str = "", scheme: str = "auto"
) -> str:
    """A whole offline page.

    Parameters
    ----------
    body : str
        HTML, already safe, with one ``<div class="chart" id=…>`` for each chart.
    charts : mapping of str to chart or specification, optional
        By the id of their place in ``body``.
    title : str
        Plain text.
    style : str
        More CSS; may use ``--background``, ``--text``, ``--line`` and ``--heat``.
    scheme : {"auto", "light", "dark"}
        ``auto`` follows the reader's preference, also when it changes.
    """
    if scheme not in SCHEMES:
        raise ValueError(f"scheme is {scheme!r}, not one of {', '.join(SCHEMES)}")
    css = _STYLE % {
        "mode": "light dark" if scheme == "auto" else scheme,
        "light": _variables("dark" if scheme == "dark" else "light"),
        "dark": f"@media (prefers-color-scheme: dark) {{ body {{ {_variables('dark')} }} }}" * (scheme == "auto"),
    }
    scripts, policy = "", "default-src 'none'; style-src 'unsafe-inline'; img-src data:; font-src data:"
    if charts:
        data = {
            "scheme": scheme,
            "configurations": {ink: configuration(ink) for ink in ("light", "dark")},
            "charts": {place: specification(chart) for place, chart in charts.items()},
        }
        policy += f"; script-src {_hash(_library())} {_hash(_DRAW)}"
        scripts = (
            f'<script type="application/json" id="workbench-charts">{embed(data)}</script>\n'
            f"<script>{_library()}</script>\n<script>{_DRAW}</script>\n"
        )
    policy += "; base-uri 'none'; form-action 'none'"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{css}{style}</style>\n</head>\n"
        f"<body>\n{body}\n{scripts}</body>\n</html>\n"
    )


def place(name: str, spec: Mapping[str, Any]) -> str:
    """The HTML element that a chart is drawn into, named for those who cannot see it."""
    label = html.escape(str(spec.get("description") or "chart"), quote=True)
    return f'<div class="chart" id="{name}" role="group" aria-label="{label}"></div>'


def _named(charts: Any) -> dict[str, dict[str, Any]]:
    """Charts in any of the accepted forms, by a title that may be empty."""
    if isinstance(charts, Mapping) and "$schema" not in charts:
        return {str(title): specification(chart) for title, chart in charts.items()}
    if isinstance(charts, Sequence):
        return {" " * number: specification(chart) for number, chart in enumerate(charts)}
    return {"": specification(charts)}


def _simple_page(specs: Mapping[str, dict[str, Any]], title: str, scheme: str) -> str:
    body, placed = [], {}
    for number, (heading, spec) in enumerate(specs.items()):
        placed[f"chart-{number}"] = spec
        body += [f"<h2>{html.escape(heading)}</h2>"] if heading.strip() else []
        body.append(place(f"chart-{number}", spec))
    style = "h2 { font-size: 15px; margin: 8px; }"
    return page("\n".join(body), placed, title=title, style=style, scheme=scheme)


def save_html(chart: Any, path: str | Path, title: str | None = None) -> Path:
    """Write one chart, or several under each other, to one file that opens offline.

    Parameters
    ----------
    chart : chart, sequence of charts, or mapping of title to chart
    path : path
        Its folder is made if it is missing.
    title : str, optional
        Of the page; the chart's own description if left out.

    Returns
    -------
    Path
    """
    specs = _named(chart)
    name = title or next((str(spec["description"]) for spec in specs.values() if "description" in spec), "Figure")
    return write(_simple_page(specs, name, "auto"), path)


def write(text: str, path: str | Path) -> Path:
    """Write a page, whole or not at all, as UTF-8 with plain newlines, so that its hashes hold."""
    return write_atomically(path, text)


def fragment(charts: Any, scheme: str = "auto", height: int | None = None) -> str:
    """HTML that shows charts inside another page: a frame with the whole offline page in it.

    The frame is sandboxed: what runs in it has no origin, and cannot read or change the page around it.

    Parameters
    ----------
    charts : chart, sequence of charts, or mapping of title to chart
    scheme : {"auto", "light", "dark"}
    height : int, optional
        Of the frame, in pixels; measured from the charts if left out.

    Returns
    -------
    str
        One ``<iframe>`` element.
    """
    specs = _named(charts)
    tall = height or sum(measure(spec) + 24 + 36 * bool(title.strip()) for title, spec in specs.items())
    label = html.escape("; ".join(str(spec.get("description", "chart")) for spec in specs.values()), quote=True)
    inner = html.escape(_simple_page(specs, "Figure", scheme), quote=True)
    return (
        f'<iframe title="{label}" sandbox="allow-scripts allow-downloads" width="100%" height="{tall}" '
        f'style="border: 0; width: 100%; height: {tall}px" srcdoc="{inner}"></iframe>'
    )


def measure(spec: Mapping[str, Any]) -> int:
    """Height of a chart as it will be drawn, its controls included [pixels]."""
    drawn = vl_convert.vegalite_to_svg({**spec, "config": spec.get("config", configuration())}, allowed_base_urls=[])
    height = re.search(r'<svg[^>]*\bheight="([\d.]+)"', drawn)
    controls = sum("bind" in parameter for parameter in spec.get("params", ()))
    return round(float(height[1])) + 30 * controls + 10 if height else 480
