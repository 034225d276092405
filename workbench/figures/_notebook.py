"""Charts in a notebook's output: offline, and with a prompt's markup kept out of the notebook's page."""

from __future__ import annotations

from typing import Any

import altair as alt

_used = False


class Shown:
    """Something a notebook displays as HTML."""

    def __init__(self, html: str):
        self.html = html

    def _repr_html_(self) -> str:
        return self.html


def show(charts: Any, scheme: str = "auto") -> Shown:
    """One chart, or several under each other, as the output of a notebook cell.

    Parameters
    ----------
    charts : chart, sequence of charts, or mapping of title to chart
    scheme : {"auto", "light", "dark"}
        ``auto`` follows the reader's preference.
    """
    from workbench.figures._html import fragment

    return Shown(fragment(charts, scheme=scheme))


def _render(spec: dict[str, Any], **_: Any) -> dict[str, str]:
    from workbench.figures._html import fragment

    return {"text/html": fragment(spec), "text/plain": spec.get("description", "chart")}


def use() -> None:
    """Make a chart at the end of a cell draw itself from what the notebook holds, once per process.

    Altair's own default writes a script tag that fetches Vega from a content network and leaves ``</script>`` in the
    data as it is. The first figure drawn puts this renderer in its place; a renderer that was chosen on purpose stays,
    and ``altair.renderers.enable("default")`` brings the old one back for good.
    """
    global _used
    if not _used and alt.renderers.active == "default":
        alt.renderers.enable("workbench")
    _used = True


alt.renderers.register("workbench", _render)
