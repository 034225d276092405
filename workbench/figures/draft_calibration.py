"""Whether a drafter knows when it is right: the chance it gives its tokens against the share that was kept."""

from __future__ import annotations

import altair as alt
import numpy as np
import xarray as xr

from workbench.errors import TraceError
from workbench.figures._drafts import nodes
from workbench.figures._figure import figure
from workbench.figures._reliability import panel, table_of
from workbench.figures._runs import labels
from workbench.figures._text import heading
from workbench.figures._theme import CATEGORIES
from workbench.metrics.calibration import reliability

ACROSS = 4
MOST = 24  # panels


def _views(tree: xr.DataTree) -> bool:
    return bool(np.isfinite(tree["drafts/confidence"].values).any())


@figure("drafts/confidence", "drafts/kept", when=_views)
def draft_calibration(tree: xr.DataTree) -> alt.TopLevelMixin:
    """A panel for each run whose drafter says how sure it is: its chances in ten bins, and what came of them.

    Only tokens whose parent was kept count, since the others could not be kept. Bars are 95 % intervals (Wilson, 1927);
    the area of a point grows with the number of tokens.

    Parameters
    ----------
    tree : DataTree or Study

    Raises
    ------
    TraceError
        If no drafter gave a chance.
    """
    table = nodes(tree)
    table = table[table["reached"] & np.isfinite(table["confidence"])]
    if table.empty:
        raise TraceError("no drafter of this trace says how sure it is of its tokens")
    names = labels(tree, 28)
    parts = [(names[run], reliability(group["confidence"], group["kept"])) for run, group in table.groupby("run")]
    most = max(int(found.count.max()) for _, found in parts[:MOST])
    panels = [
        panel(
            table_of(found).assign(run=name), ("run", name), "drafter's probability", "kept (share)",
            ("kept", f"off by {found.error:.2f}"), most, CATEGORIES[0],
        )
        for name, found in parts[:MOST]
    ]  # fmt: skip
    rows = [alt.hconcat(*panels[i : i + ACROSS], spacing=20) for i in range(0, len(panels), ACROSS)]
    notes = (
        "Ten bins of drafted tokens whose parent was kept; bars: 95 % intervals. Dashed: a drafter that is right. "
        "Under it, the drafter is too sure. Off by: the distance to it, mean over tokens.",
        f"The first {MOST} of {len(parts)} runs are shown." if len(parts) > MOST else "",
    )
    title = heading("Draft probability against acceptance", " ".join(filter(None, notes)))
    return alt.vconcat(*rows, spacing=14).properties(title=title)
