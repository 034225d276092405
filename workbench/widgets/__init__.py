"""Panels for a notebook: ipywidgets over the same library and the same figures."""

from workbench.widgets.explore import explore
from workbench.widgets.recipe import RecipePicker
from workbench.widgets.side_by_side import side_by_side

__all__ = ["RecipePicker", "explore", "side_by_side"]
