"""Choose what a figure shows, where a figure has a choice."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from typing import Any

import ipywidgets

import workbench as wb


def explore(figure: Callable[..., Any], trace: Any, **settings: Any) -> ipywidgets.Widget:
    """A figure with a dropdown for each of its arguments that is one of several words.

    Parameters
    ----------
    figure : callable
        Of :mod:`workbench.figures`, for example ``wb.figures.logit_lens``.
    trace : DataTree or Study
    **settings
        Passed on unchanged.
    """
    hints = typing.get_type_hints(inspect.unwrap(figure))
    choices = {
        name: ipywidgets.Dropdown(options=typing.get_args(hint), description=name)
        for name, hint in hints.items()
        if typing.get_origin(hint) is typing.Literal and name not in settings
    }
    output = ipywidgets.Output()

    def draw(*_: Any) -> None:
        chosen = {name: choice.value for name, choice in choices.items()}
        output.clear_output(wait=True)
        output.append_display_data(wb.figures.show(figure(trace, **chosen, **settings)))

    for choice in choices.values():
        choice.observe(draw, names="value")
    draw()
    return ipywidgets.VBox([ipywidgets.HBox(list(choices.values())), output])
