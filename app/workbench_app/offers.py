"""What a visitor may name: what is bundled, what is on the model hub, and what the operator offered. Never a path."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import workbench as wb
from workbench.errors import SettingError
from workbench.files import at_home, is_there
from workbench.registry import TECHNIQUES
from workbench.settings import Outside, parse, references, spell
from workbench.techniques import Technique  # the import also fills the registry

Kind = Literal["model", "part", "lens", "text"]

LONGEST_NAME = 300
"""Characters of a model's name; the hub's own are shorter."""
BUNDLED = wb.models.built.NAMES
_NAME = re.compile(r"\w[\w.-]{0,79}", re.ASCII)
_ON_THE_HUB = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?(:[\w.-]+\.gguf)?", re.ASCII)
# What settings call something else.
_TAKEN = {"auto", "distilled", "none", "bundled", "untrained", "logit", *BUNDLED}
_OWN: dict[str, tuple[str, ...]] = {
    "model": ("auto", "distilled", "none"),
    "part": ("bundled", "untrained"),
    "lens": ("bundled", "logit", "untrained"),
    "text": (),
}


class Offers:
    """Files and folders by the names that the operator gave them."""

    def __init__(self) -> None:
        self._paths: dict[str, Path] = {}

    def renew(self, offers: Iterable[str]) -> None:
        """Offer these and nothing else, each as ``NAME=PATH`` or as a path, whose last part is then the name.

        Raises
        ------
        SettingError
            If a name is taken or cannot be one, or nothing is at a path.
        """
        self._paths = {}
        for offer in offers:
            self.add(offer)

    def add(self, offer: str) -> str:
        """Offer one more, as :meth:`renew`; its name."""
        name, equals, path = offer.partition("=")
        if not equals or is_there(offer):
            name, path = Path(offer).resolve().name, offer
        place = at_home(path)
        if not path.strip() or not is_there(place):
            raise SettingError(f"there is nothing at {path!r} to offer")
        if not _NAME.fullmatch(name) or name in _TAKEN or self._paths.get(name, place.resolve()) != place.resolve():
            raise SettingError(f"{name!r} cannot be the name of an offer: give it another one, as my-model={path}")
        self._paths[name] = place.resolve()
        return name

    def spelled(self) -> list[str]:
        """All offers, as :meth:`renew` takes them."""
        return [f"{name}={path}" for name, path in self._paths.items()]

    def names(self, what: Kind) -> list[str]:
        """Names of what was offered of a kind: a folder or a GGUF file is a model, a safetensors file a trained part,
        any other file a text. A lens is a trained part too."""
        kind = "part" if what == "lens" else what
        return [name for name, path in self._paths.items() if _kind(path) == kind]

    def path(self, name: str, what: Kind) -> str | None:
        """Where an offer of a kind is; None if there is none of that name."""
        return str(self._paths[name]) if name in self.names(what) else None

    def model(self, name: str) -> str:
        """What :func:`workbench.load` is to be given for a model that a visitor named; ``name/4`` is a cut.

        Raises
        ------
        SettingError
            If it is neither bundled nor offered nor the form of an id on the hub.
        """
        base, slash, layers = name.partition("/")
        cut = not slash or (layers.isascii() and layers.isdecimal())
        if cut and (path := self.path(base, "model")) is not None:
            return path + slash + layers
        if cut and base in BUNDLED:
            return name
        # A file of that name would be read rather than the hub asked.
        if (
            len(name) <= LONGEST_NAME
            and _ON_THE_HUB.fullmatch(name)
            and not name.endswith(".safetensors")
            and not is_there(name)
        ):
            return name
        known = ", ".join([*BUNDLED, *self.names("model")])
        raise SettingError(
            f"{name[:LONGEST_NAME]!r} is no model that this page offers: take {known}, or an owner/model of the hub"
        )

    def setting(self, what: Outside, value: str) -> str:
        """The value of a setting that names something, with a path in the place of an offer's name.

        Raises
        ------
        SettingError
            If a visitor may not name that.
        """
        if what == "device" or not value or value in _OWN.get(what, ()):
            return value
        if what == "technique":
            return "+".join(spell(self.recipe(each)) for each in parse(value, TECHNIQUES))
        path = self.path(value, what) or (self.path(value, "part") if what == "model" else None)
        if path is not None:
            return path
        if what == "model":
            return value if wb.models.second_model.is_cut(value) else self.model(value)
        known = ", ".join([*_OWN[what], *self.names(what)]) or "nothing"
        raise SettingError(f"{value[:LONGEST_NAME]!r} is not among what this page offers for it: {known}")

    def recipe(self, technique: Technique) -> Technique:
        """A technique with its settings as :meth:`setting` gives them."""
        return replace(technique, **{name: self.setting(what, value) for name, what, value in references(technique)})

    def choices(self, what: Outside, default: str) -> list[tuple[str, str]] | None:
        """What a control of such a setting shows, and the values behind it; None where there is nothing to choose."""
        if what not in _OWN:
            return None
        names = [default, *(_OWN[what] if what in ("part", "lens") else ()), *self.names(what)]
        if what == "model":
            names += [*self.names("part"), *BUNDLED]
        return [(name or "none", name) for name in dict.fromkeys(names)]


def _kind(path: Path) -> Kind:
    if path.is_dir() or path.suffix == ".gguf":
        return "model"
    return "part" if path.suffix == ".safetensors" else "text"


OFFERED = Offers()
"""The offers of the page that this process serves."""
