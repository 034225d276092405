"""Settings of techniques and probes: typed, bounded, frozen; read from a shell or a page, described for one."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, TypeVar, dataclass_transform

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from workbench.errors import SettingError

_CONFIG = ConfigDict(arbitrary_types_allowed=True, extra="forbid", allow_inf_nan=False)
Class = TypeVar("Class", bound=type)


@dataclass_transform(frozen_default=True, field_specifiers=(Field,))
def settings(cls: Class) -> Class:
    """Decorator of a technique's or a probe's class: a frozen dataclass whose fields are checked against their types
    and bounds, ``Annotated[int, Field(ge=1, le=64, description="…")]``."""
    return dataclass(frozen=True, config=_CONFIG)(cls)


Outside = Literal["model", "part", "lens", "text", "technique", "device"]
"""What a text may name that is no part of a recipe itself: a model or draft model, trained weights, those of a lens,
a text file, another technique's specification, a device. A technique that is so named is a part of the one that names
it: see :meth:`workbench.engine.Run.start_part`."""


def outside(what: Outside, description: str, **bounds: Any) -> Any:
    """The ``Field`` of a setting that names something outside the recipe, ``Annotated[str, outside("text", "…")]``.

    It tells the page that no visitor may write a path there, and a study to look at the content behind the name.
    """
    return Field(description=description, json_schema_extra={"outside": what}, **bounds)


def several(given: Any, mark: str, what: str, example: str) -> list[Any]:
    """What was given as a list of instances that all have the attribute ``mark``.

    Raises
    ------
    SettingError
        If it is one of them alone, a class, a name, or anything else; ``what`` and ``example`` are for the message.
    """
    if isinstance(given, str | Mapping) or not isinstance(given, Iterable):
        raise SettingError(f"{what}s are given as a list, not as {given!r:.80}: write [{example}]")
    built = list(given)
    for each in built:
        if isinstance(each, type) or not hasattr(each, mark):
            raise SettingError(f"{each!r:.80} is no {what}: write [{example}]")
    return built


def references(instance: Any) -> Iterator[tuple[str, Outside, str]]:
    """The settings of an instance that name something outside it: setting, what it names, and its value."""
    for name, what in _references_of(type(instance)):
        yield name, what, getattr(instance, name)


@functools.cache
def _references_of(kind: type) -> tuple[tuple[str, Outside], ...]:
    fields = describe(kind) if dataclasses.is_dataclass(kind) else {}
    return tuple((name, field["outside"]) for name, field in fields.items() if "outside" in field)


def build(kind: type, values: dict[str, Any]) -> Any:
    """An instance of a settings dataclass from loose values; one clear SettingError if they do not fit."""
    known = {field.name for field in dataclasses.fields(kind)}
    for name in values:
        if name not in known:
            raise SettingError(f"{kind.name} has no setting {name!r}; it has: {', '.join(sorted(known)) or 'none'}")
    try:
        return kind(**values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        given = f"{kind.name}: {place}={first.get('input')!r:.80} is not allowed"
        raise SettingError(f"{given}: {_expected(kind, str(first['loc'][0]), first)}") from error


def _expected(kind: type, name: str, error: Any) -> str:
    """What would be allowed, in words; of a text with a form its description and default rather than its pattern."""
    field = describe(kind).get(name, {})
    if error["type"] == "string_pattern_mismatch":
        return (
            f"it is {field.get('description', 'a text of a certain form')}; write for example {name}={field['default']}"
        )
    return error["msg"]


def describe(kind: type) -> dict[str, dict[str, Any]]:
    """Settings of a technique or probe as JSON schema: setting -> type, default, bounds, description, choices."""
    schema = TypeAdapter(kind).json_schema()
    described = {}
    for name, field in schema.get("properties", {}).items():
        options = field.get("anyOf")
        if options:
            field = {**field, **next(option for option in options if option.get("type") != "null")}
        described[name] = {key: value for key, value in field.items() if key not in ("anyOf", "title")}
    return described


def parse(spec: str, registry: Mapping[str, type]) -> list[Any]:
    """Instances from a specification ``name[:key=value,…]``, several joined by ``+``.

    Parameters
    ----------
    spec : str
        For example ``prompt_lookup:ngram=3+snap_kv:keep=0.5``. ``baseline`` and an empty string are the empty recipe.
    registry : mapping of str to class

    Raises
    ------
    SettingError
        If a name, a setting or a value is not known; it says what is.
    """
    if spec.strip() in ("", "baseline"):
        return []
    built = []
    for part in spec.split("+"):
        name, _, rest = part.strip().partition(":")
        values = {}
        for pair in filter(None, rest.split(",")):
            key, equals, value = pair.partition("=")
            if not equals:
                raise SettingError(f"{pair!r} in {part!r} is not key=value")
            values[key.strip()] = None if value.strip() == "None" else value.strip()
        built.append(build(registry[name], values))
    return built


def spell(instance: Any) -> str:
    """The specification of an instance, with the settings that differ from their defaults."""
    changed = [
        f"{field.name}={getattr(instance, field.name)}"
        for field in dataclasses.fields(instance)
        if getattr(instance, field.name) != field.default
    ]
    return type(instance).name + (":" + ",".join(changed) if changed else "")
