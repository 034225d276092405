"""Models that are built in memory from a bundled one and a trained part, in seconds, whenever they are loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from workbench.errors import SettingError
from workbench.models import split
from workbench.models.bundled import BUNDLED, BundledModel
from workbench.models.model import Model


@dataclass(frozen=True)
class BuiltModel:
    """A model that is made of another.

    Attributes
    ----------
    name, description : str
    base : str
        The bundled model, whose licence and terms hold.
    part : str
        The trained part that comes with the workbench.
    """

    name: str
    description: str
    base: str
    part: str

    @property
    def row(self) -> BundledModel:
        return BUNDLED[self.base]

    @property
    def revision(self) -> str:
        """The base's, and the beginning of the part's checksum."""
        return f"{self.row.revision}, {self.part} {self._part_sum[:12]}"

    @property
    def checksum(self) -> str:
        """Of all that it is built of."""
        return f"{self.row.sha256} {self._part_sum}"

    @property
    def _part_sum(self) -> str:
        from workbench import artifacts

        return artifacts.card(artifacts.place(self.part))["sha256"]


BUILT: dict[str, BuiltModel] = {
    "smollm2-moe": BuiltModel(
        "smollm2-moe",
        "smollm2-135m with its MLPs cut into a shared and 32 routed experts, of which a token runs half",
        "smollm2-135m",
        "expert_split",
    )
}
NAMES: tuple[str, ...] = (*BUNDLED, *BUILT)
"""Models that need no hub."""


def base_of(name: str) -> str:
    """The bundled model that a name needs: itself, or what it is built from."""
    return BUILT[name].base if name in BUILT else name


def build(name: str, base: Model) -> tuple[Any, int]:
    """The transformers model of a built one with all experts on, and how many of them a token is to run.

    Parameters
    ----------
    name : str
        Key of `BUILT`.
    base : Model
        Of which it is built; its tensors are shared where they stay what they are.

    Raises
    ------
    ArtifactError
        If the trained part is not there or does not fit.
    """
    from workbench import artifacts

    if name not in BUILT:
        raise SettingError(f"There is no model '{name}' that is built. Known: {', '.join(BUILT)}.")
    tensors, card = artifacts.load(BUILT[name].part, base)
    return split.split(base.hf, tensors), card["settings"]["chosen"]
