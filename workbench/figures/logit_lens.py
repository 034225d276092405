"""What the model would say after each block: the top token by layer and position."""

from __future__ import annotations

import altair as alt
import xarray as xr

from workbench.figures._figure import figure
from workbench.figures._lens import Colour, lens_table


@figure("tokens/id", "probes/logit_lens/top_token")
def logit_lens(
    tree: xr.DataTree,
    *,
    last: int = 12,
    colour: Colour = "probability",
) -> alt.TopLevelMixin:
    """A table of top tokens, one row per layer and one column per token of the prompt.

    Parameters
    ----------
    tree : DataTree or Study
        With ``probes/logit_lens``.
    last : int
        How many tokens, counted from the end of the prompt; fewer if the cells would pass 5,000.
    colour : {"probability", "entropy", "kl", "rank"}
        What the colour of a cell says.

    Raises
    ------
    TraceError
        If the trace lacks what is asked for.
    """
    return lens_table(tree, "logit_lens", "Logit lens", last, colour)
