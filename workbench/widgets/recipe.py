"""Pick techniques for the slots; the controls come from the registry and the settings' own bounds."""

from __future__ import annotations

from typing import Any

import ipywidgets

from workbench.listing import by_slot
from workbench.registry import TECHNIQUES
from workbench.settings import build, describe

_NONE = "none"


class RecipePicker:
    """One dropdown for each slot that a registered technique claims first, and the settings of what is chosen.

    Parameters
    ----------
    title : str
    start : str
        Name of a technique chosen at the start.

    Attributes
    ----------
    panel : ipywidgets.Widget
    """

    def __init__(self, title: str, start: str = "") -> None:
        self._settings: dict[str, dict[str, Any]] = {}
        self._choices: dict[str, ipywidgets.Dropdown] = {}
        rows = [ipywidgets.HTML(f"<b>{title}</b>")]
        for slot, techniques in by_slot().items():
            names = [technique.name for technique in techniques]
            choice = ipywidgets.Dropdown(options=[_NONE, *names], value=_NONE, description=slot.replace("_", " "))
            box = ipywidgets.VBox()
            choice.observe(lambda change, slot=slot, box=box: self._show(slot, change["new"], box), names="value")
            self._choices[slot] = choice
            rows += [choice, box]
            if start in names:
                choice.value = start
        self.panel = ipywidgets.VBox(rows, layout={"min_width": "330px"})

    def recipe(self) -> list[Any]:
        """The chosen techniques.

        Raises
        ------
        SettingError
            If a setting is not allowed.
        """
        return [
            build(TECHNIQUES[choice.value], self._values(slot))
            for slot, choice in self._choices.items()
            if choice.value != _NONE
        ]

    def choose(self, name: str, **values: Any) -> None:
        """Choose a technique and settings, as a hand would."""
        slot = TECHNIQUES[name].slots[0]
        self._choices[slot].value = name
        for key, value in values.items():
            self._settings[slot][key].value = value

    def _values(self, slot: str) -> dict[str, Any]:
        return {key: control.value for key, control in self._settings[slot].items()}

    def _show(self, slot: str, name: str, box: ipywidgets.VBox) -> None:
        fields = {} if name == _NONE else describe(TECHNIQUES[name])
        self._settings[slot] = {key: control(key, field) for key, field in fields.items()}
        box.children = tuple(self._settings[slot].values())


def control(name: str, field: dict[str, Any]) -> ipywidgets.Widget:
    """The widget for one setting, from its JSON schema: a choice, a check box, a bounded number, or text."""
    common = {
        "description": name,
        "value": field.get("default"),
        "tooltip": field.get("description", ""),
        "style": {"description_width": "110px"},
    }
    if "enum" in field:
        return ipywidgets.Dropdown(options=field["enum"], **common)
    if field.get("type") == "boolean":
        return ipywidgets.Checkbox(**common)
    if field.get("type") == "integer":
        low, high = _bounds(field, 1)
        return ipywidgets.BoundedIntText(min=low, max=high, **common)
    if field.get("type") == "number":
        low, high = _bounds(field, 1e-6)
        return ipywidgets.BoundedFloatText(min=low, max=high, step=0.05, **common)
    return ipywidgets.Text(**common)


def _bounds(field: dict[str, Any], beside: float) -> tuple[Any, Any]:
    low = field.get("minimum", field.get("exclusiveMinimum", -1e9) + beside * ("exclusiveMinimum" in field))
    high = field.get("maximum", field.get("exclusiveMaximum", 1e9) - beside * ("exclusiveMaximum" in field))
    return low, high
