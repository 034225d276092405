"""Controls made from the registries: one for every slot, and one for every setting of a technique or a probe.

Nothing here knows a technique. All controls are built once and only shown or hidden, so that a run always sees the
values that the visitor sees.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import gradio as gr

from workbench.errors import SettingError
from workbench.listing import by_slot
from workbench.registry import TECHNIQUES
from workbench.settings import Outside, build, describe, parse
from workbench.techniques import SLOTS  # the import also fills the registry
from workbench_app.offers import OFFERED
from workbench_app.plain import safe, words

NONE = "none"
QUICK: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
"""Arguments of an event that calls no model and may pass those that do."""

_WIDEST_SLIDER = 5_000  # steps; beyond that a slider cannot be set with a mouse


def bounds(field: dict[str, Any]) -> tuple[float | None, float | None]:
    """Least and greatest value that a described setting may have; None where it is open."""
    low, high = field.get("minimum"), field.get("maximum")
    step = 1 if field["type"] == "integer" else step_of(field)
    if low is None and "exclusiveMinimum" in field:
        low = field["exclusiveMinimum"] + step
    if high is None and "exclusiveMaximum" in field:
        high = field["exclusiveMaximum"] - step
    return low, high


def step_of(field: dict[str, Any]) -> float:
    """Step of a bounded number: about a hundredth of its range, and fine enough for its default."""
    low = field.get("minimum", field.get("exclusiveMinimum"))
    high = field.get("maximum", field.get("exclusiveMaximum"))
    if low is None or high is None or high <= low:
        return 0.01
    places = [math.floor(math.log10((high - low) / 100))]
    if isinstance(field.get("default"), int | float):
        places.append(int(Decimal(str(field["default"])).normalize().as_tuple().exponent))
    return float(10.0 ** min(places))


def control(name: str, field: dict[str, Any]) -> gr.components.Component:
    """The control of one described setting."""
    default, label = field.get("default"), words(name)
    shared = {"label": label, "info": field.get("description"), "interactive": True, "min_width": 190}
    kind = field.get("type")
    if "enum" in field:
        return gr.Dropdown(choices=list(field["enum"]), value=default, **shared)
    choices = OFFERED.choices(field["outside"], default) if "outside" in field else None
    if choices is not None:
        # A model may also be one on the hub, or a cut.
        return gr.Dropdown(choices, value=default, allow_custom_value=field["outside"] == "model", **shared)
    if kind == "boolean":
        return gr.Checkbox(value=bool(default), **shared)
    if kind in ("integer", "number") and default is not None:
        low, high = bounds(field)
        step = 1 if kind == "integer" else step_of(field)
        if None not in (low, high) and (high - low) / step <= _WIDEST_SLIDER:
            return gr.Slider(low, high, value=default, step=step, **shared)
        precision = 0 if kind == "integer" else None
        return gr.Number(value=default, minimum=low, maximum=high, precision=precision, **shared)
    # A number box cannot be left empty, so a number that may be none is written as text.
    text = default if kind == "string" or default is None else json.dumps(default)
    return gr.Textbox(
        value=text, max_lines=1, max_length=500, placeholder="none" if default is None else None, **shared
    )


@dataclass
class Settings:
    """Controls of one technique or probe."""

    kind: type
    fields: dict[str, dict[str, Any]]
    components: list[gr.components.Component]

    @classmethod
    def render(cls, kind: type) -> Settings:
        """Make the controls in the layout that is open."""
        fields = describe(kind)
        with gr.Row(elem_classes="settings"):
            made = [control(name, field) for name, field in fields.items()]
        if not made:
            gr.HTML('<div class="note">It has no settings.</div>')
        return cls(kind, fields, made)

    def build(self, values: Sequence[Any]) -> Any:
        """An instance with the values of the controls; one left empty keeps its default.

        Raises
        ------
        SettingError
        """
        given = {}
        for (name, described), value in zip(self.fields.items(), values, strict=True):
            if value is None or value == "":
                continue
            if described.get("type") in ("array", "object") and isinstance(value, str):
                try:
                    value = json.loads(value)
                except ValueError:
                    raise SettingError(f"{self.kind.name}: {name} must be JSON, not {value!r}") from None
            if "outside" in described:
                value = self._offered(name, described["outside"], str(value))
            given[name] = value
        return build(self.kind, given)

    def _offered(self, name: str, what: Outside, value: str) -> str:
        try:
            return OFFERED.setting(what, value)
        except SettingError as error:
            raise SettingError(f"{self.kind.name}: {name}: {error}") from None


@dataclass
class RecipeControls:
    """One control for every slot, and the settings of what is chosen: together, a recipe."""

    choices: dict[str, gr.Dropdown] = field(default_factory=dict)
    settings: dict[str, Settings] = field(default_factory=dict)
    _groups: dict[str, gr.Column] = field(default_factory=dict)

    @classmethod
    def render(cls, side: str, chosen: str = "") -> RecipeControls:
        """Make the controls in the layout that is open.

        Parameters
        ----------
        side : str
            Name of the column, part of the elements' ids.
        chosen : str
            Specification of the techniques that are chosen at first; names that are not registered are left out.
        """
        made, first = cls(), _known(chosen)
        with gr.Row(elem_classes="slots"):
            for slot, techniques in by_slot().items():
                made.choices[slot] = _choice(side, slot, techniques, first)
        for techniques in by_slot().values():
            for technique in techniques:
                # Gradio writes a group's id twice into the page, so the id belongs to a column around it.
                with (
                    gr.Column(visible=technique.name in first, elem_id=f"{side}-{technique.name}") as shown,
                    gr.Group(),
                ):
                    gr.HTML(_heading(technique), padding=True)
                    made.settings[technique.name] = Settings.render(technique)
                made._groups[technique.name] = shown
        for slot, techniques in by_slot().items():
            made._follow(made.choices[slot], [technique.name for technique in techniques])
        return made

    def _follow(self, choice: gr.Dropdown, names: list[str]) -> None:
        def show(value: Any) -> Any:
            chosen = _as_list(value)
            updates = [gr.update(visible=name in chosen) for name in names]
            return updates if len(updates) > 1 else updates[0]

        groups = [self._groups[name] for name in names]
        choice.change(show, choice, groups, trigger_mode="always_last", **QUICK)

    @property
    def inputs(self) -> list[gr.components.Component]:
        """All controls, in the order that :meth:`recipe` takes their values."""
        settings = [component for each in self.settings.values() for component in each.components]
        return [*self.choices.values(), *settings]

    def recipe(self, values: Sequence[Any]) -> list[Any]:
        """The chosen techniques.

        Raises
        ------
        SettingError
        """
        picked = [name for value in values[: len(self.choices)] for name in _as_list(value)]
        place, built = len(self.choices), {}
        for name, settings in self.settings.items():
            own = values[place : place + len(settings.components)]
            place += len(settings.components)
            if name in picked:
                built[name] = settings.build(own)
        return [built[name] for name in picked]


def _known(chosen: str) -> list[str]:
    try:
        return [technique.name for technique in parse(chosen, TECHNIQUES)]
    except SettingError:
        return []


def _choice(side: str, slot: str, techniques: list[type], first: list[str]) -> gr.Dropdown:
    options = [(words(technique.name), technique.name) for technique in techniques]
    chosen = [technique.name for technique in techniques if technique.name in first]
    shared = {"label": words(slot), "elem_id": f"{side}-slot-{slot}", "min_width": 150, "interactive": True}
    if SLOTS[slot] == "stack":
        return gr.Dropdown(options, value=chosen, multiselect=True, info="any number, in this order", **shared)
    return gr.Dropdown([(NONE, NONE), *options], value=chosen[0] if chosen else NONE, **shared)


def _as_list(value: Any) -> list[str]:
    return [name for name in (value if isinstance(value, list) else [value]) if name and name != NONE]


def _heading(technique: type) -> str:
    what = "exact" if technique.exact else "approximate"
    others = f" · also fills {', '.join(map(words, technique.slots[1:]))}" if len(technique.slots) > 1 else ""
    return (
        f'<div class="technique"><b>{safe(words(technique.name))}</b> <span class="chip">{what}</span>'
        f'<span class="paper">{safe(technique.paper + others)}</span></div>'
    )
