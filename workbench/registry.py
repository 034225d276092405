"""Names of techniques and probes: a class is known by its own name in snake case, through one decorator."""

import difflib
import re
from collections.abc import Iterator, Mapping

from workbench.errors import SettingError


class UnknownName(SettingError, KeyError):
    """A name that the registry does not hold; the message gives near matches and all names."""

    __str__ = Exception.__str__  # KeyError's own would put the message in quotes


def snake_case(name: str) -> str:
    """Write a class name in snake case, an acronym as one word: ``SnapKV`` is ``snap_kv``."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z0-9])(?=[A-Z][a-z])", "_", name).lower()


class Registry(Mapping[str, type]):
    """Classes of one kind by name, in the order of registration; a read-only mapping filled by `register`."""

    def __init__(self, kind: str):
        self.kind = kind
        self._classes: dict[str, type] = {}

    def register(self, cls: type) -> type:
        """Decorate a class: file it under its name. Raises `SettingError` where the name is taken."""
        name = snake_case(cls.__name__)
        if name in self._classes:
            raise SettingError(f"The {self.kind} name '{name}' is taken by {self._classes[name].__module__}.")
        self._classes[name], cls.name = cls, name
        return cls

    def __getitem__(self, name: str) -> type:
        if name in self._classes:
            return self._classes[name]
        near = difflib.get_close_matches(str(name), self._classes, n=3)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise UnknownName(f"There is no {self.kind} named '{name}'.{hint} Known: {', '.join(self._classes) or 'none'}.")

    def __iter__(self) -> Iterator[str]:
        return iter(self._classes)

    def __len__(self) -> int:
        return len(self._classes)


TECHNIQUES, PROBES = Registry("technique"), Registry("probe")
