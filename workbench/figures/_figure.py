"""What every figure is: a function from a trace or a study to an Altair chart, known by its name and its needs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import altair as alt
import xarray as xr

from workbench.errors import TraceError
from workbench.figures._notebook import use
from workbench.figures._theme import configuration

ROWS = 5000
"""Most rows that a chart's data may have; figures reduce before they draw."""


@dataclass(frozen=True)
class Figure:
    """A figure that a report can draw without being told how.

    Attributes
    ----------
    name : str
    draw : callable
        From a trace or study, and settings, to a chart.
    needs : tuple of str
        Variables, as ``group/variable``, without which there is nothing to draw.
    each_run : bool
        Whether ``draw`` takes a ``run`` and a report shows one chart for each.
    shows : callable or None
        For those: whether there is something to see for a run, given the tree and its number.
    when : callable or None
        Whether a tree that has what is needed also says something with it.
    """

    name: str
    draw: Callable[..., alt.TopLevelMixin]
    needs: tuple[str, ...]
    each_run: bool = False
    shows: Callable[[xr.DataTree, int], bool] | None = None
    when: Callable[[xr.DataTree], bool] | None = None

    def applies(self, tree: xr.DataTree) -> bool:
        """Whether a trace holds what this figure shows."""
        return not _missing(tree, self.needs) and (self.when is None or self.when(tree))


FIGURES: dict[str, Figure] = {}


def tree_of(trace: Any) -> xr.DataTree:
    """The DataTree of a trace or of a study.

    Raises
    ------
    TraceError
        If it is neither.
    """
    tree = trace if isinstance(trace, xr.DataTree) else getattr(trace, "tree", None)
    if not isinstance(tree, xr.DataTree):
        raise TraceError(f"a figure is drawn from a trace or a study, not from {type(trace).__name__}")
    return tree


def figure(
    *needs: str,
    each_run: bool = False,
    shows: Callable[[xr.DataTree, int], bool] | None = None,
    when: Callable[[xr.DataTree], bool] | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate a function ``(tree, **settings) -> chart``: it takes a study too, and its chart wears the theme."""

    def decorate(draw: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(draw)
        def drawn(trace: Any, *args: Any, **settings: Any) -> Any:
            tree = tree_of(trace)
            if missing := _missing(tree, needs):
                raise TraceError(f"{draw.__name__} needs {', '.join(missing)}, which this trace does not hold")
            use()
            return _finish(draw(tree, *args, **settings))

        FIGURES[draw.__name__] = Figure(draw.__name__, drawn, needs, each_run, shows, when)
        return drawn

    return decorate


def _missing(tree: xr.DataTree, needs: Iterable[str]) -> list[str]:
    missing, groups = [], {node.path.strip("/") for node in tree.subtree}
    for need in needs:
        group, _, variable = need.rpartition("/")
        values = group.strip("/") in groups and tree[group].data_vars.get(variable)
        if values is None or values is False or not values.size:
            missing.append(need)
    return missing


def _finish(chart: Any) -> Any:
    title = chart.title
    if title is not alt.Undefined and chart.description is alt.Undefined:
        notes = [] if title.subtitle is alt.Undefined else title.subtitle
        chart = chart.properties(description=". ".join([str(title.text), *notes]))
    return chart.configure(**configuration())
