"""How every figure looks: one Vega-Lite configuration in three inks, and colours that survive both backgrounds.

A chart that is displayed by someone else (a notebook in the default renderer, an exported PNG) cannot know the colour
of the page behind it, so its background is transparent and its ink is a middle grey with a contrast of more than 4 to 1
on white and on ``#0e1117`` alike. Pages written by this package know better: they carry the ``light`` and the ``dark``
ink and draw again when the reader's preference changes.
"""

from __future__ import annotations

from typing import Any, Literal

import altair as alt

Ink = Literal["both", "light", "dark"]
INKS = {"both": ("#7a7a7a", "#8c8c8c"), "light": ("#1f2328", "#b6bcc4"), "dark": ("#e6edf3", "#4a525c")}
"""Ink -> colour of text, colour of lines."""

BACKGROUNDS = {"light": "#ffffff", "dark": "#0e1117"}

CATEGORIES = ("#2f81c4", "#c75b12", "#0f9b72", "#c9679b", "#a97c00", "#8f6fd1", "#7b8794", "#c44e8a")
"""Colours for kinds, after the blue, vermilion, green, purple and orange of Okabe and Ito (2008), each shifted until
its contrast is at least 3 to 1 on white and on ``#0e1117``. Figures that use them give every kind a shape, a place or
a label as well."""

SEQUENTIAL = "viridis"
"""Scheme for amounts; readable without colour vision, as its lightness rises evenly."""

MONOSPACE = "DejaVu Sans Mono, Menlo, Consolas, monospace"
SANS = "system-ui, -apple-system, Segoe UI, DejaVu Sans, sans-serif"


def configuration(ink: Ink = "both") -> dict[str, Any]:
    """The Vega-Lite ``config`` of all figures.

    Parameters
    ----------
    ink : {"both", "light", "dark"}
        For an unknown background, a white one, or a dark one.
    """
    text, line = INKS[ink]
    faint = {"gridColor": line, "gridOpacity": 0.35, "domainColor": line, "tickColor": line}
    letters = {"labelColor": text, "titleColor": text, "labelFontSize": 11, "titleFontSize": 12}
    return {
        "background": "transparent",
        "font": SANS,
        "padding": 8,
        "view": {"stroke": None},
        "axis": {**faint, **letters, "titleFontWeight": "normal"},
        "legend": {**letters, "titleFontWeight": "normal", "titleLimit": 400, "gradientStrokeColor": line},
        "header": letters,
        "title": {
            "color": text, "subtitleColor": text, "fontSize": 15, "subtitleFontSize": 12, "anchor": "start",
            "fontWeight": 600, "offset": 12, "subtitlePadding": 4, "frame": "group",
        },
        "text": {"color": text},
        "rule": {"color": text},
        "range": {"category": list(CATEGORIES), "heatmap": {"scheme": SEQUENTIAL}, "ramp": {"scheme": SEQUENTIAL}},
    }  # fmt: skip


@alt.theme.register("workbench", enable=False)
def workbench() -> alt.theme.ThemeConfig:
    """The same configuration as an Altair theme, for a reader's own charts beside these."""
    return alt.theme.ThemeConfig(config=configuration())


BRIGHT = 0.45
"""Share of the sequential scheme's range from which black letters read better than white ones."""

LETTERS = alt.condition("datum.bright", alt.value("#000000"), alt.value("#ffffff"))
"""Colour of letters on cells of the sequential scheme, for data with a column ``bright``."""
