"""The panel that sets confidences, in bins, against how often they were right."""

from __future__ import annotations

import altair as alt
import numpy as np
import pandas as pd

from workbench.figures._theme import CATEGORIES
from workbench.metrics.calibration import Reliability

SIDE = 150


def table_of(found: Reliability) -> pd.DataFrame:
    """The bins that are not empty: ``chance``, ``share``, ``low``, ``high`` and ``tokens``."""
    filled = found.count > 0
    columns = {"chance": np.clip(found.confidence, 0, 1), "share": found.share, "low": found.low, "high": found.high}
    kept = {name: values[filled] for name, values in columns.items()}
    return pd.DataFrame(kept).round(5).assign(tokens=found.count[filled])


def panel(
    table: pd.DataFrame, who: tuple[str, str], x: str, y: str, titles: tuple[str, str], most: int, colour: str
) -> alt.LayerChart:
    """Points whose area grows with the tokens of a bin, with their intervals, and the diagonal of one who is right.

    Parameters
    ----------
    table : DataFrame
        Of :func:`table_of`, with a column that says whose it is.
    who : (str, str)
        That column, and what it is of this panel, over which it stands.
    x, y : str
        Titles of the axes.
    titles : (str, str)
        What the share is of in a tooltip, and the line under the panel's name.
    most : int
        Tokens of the fullest bin of all panels.
    colour : str
    """
    column, name = who
    unit = alt.Scale(domain=[0, 1], nice=False)
    across = alt.X("chance:Q", title=x, scale=unit).axis(tickCount=3)
    up = alt.Y("share:Q", title=y, scale=unit).axis(tickCount=3)
    base = alt.Chart(table).encode(x=across, y=up)
    hover = [alt.Tooltip(f"{column}:N"), alt.Tooltip("chance:Q", title="mean probability", format=".1%"),
             alt.Tooltip("share:Q", title=titles[0], format=".1%"), alt.Tooltip("low:Q", format=".1%"),
             alt.Tooltip("high:Q", format=".1%"), alt.Tooltip("tokens:Q")]  # fmt: skip
    ideal = alt.Chart(pd.DataFrame({"chance": [0.0, 1.0], "share": [0.0, 1.0]})).mark_line(
        strokeDash=[4, 3], strokeWidth=1, color=CATEGORIES[6]
    )
    sizes = alt.Scale(domain=[0, most], range=[8, 200])
    layers = [
        ideal.encode(x=across, y=up),
        base.mark_rule(color=colour, opacity=0.7).encode(y="low:Q", y2="high:Q"),
        base.mark_line(color=colour, strokeWidth=1, opacity=0.7),
        base.mark_point(color=colour, filled=True, opacity=1).encode(
            size=alt.Size("tokens:Q", scale=sizes, legend=None), tooltip=hover
        ),
    ]
    title = alt.TitleParams(text=name, subtitle=titles[1], fontSize=12, subtitleFontSize=11, offset=6)
    return alt.layer(*layers).properties(width=SIDE, height=SIDE, title=title)
