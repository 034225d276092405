"""One recipe for each kind of part, and a row of it for each part of that kind: see :mod:`workbench.parts.trained`."""

from __future__ import annotations

from typing import Any

from workbench.errors import SettingError
from workbench.parts.heads import DraftHeads
from workbench.parts.lookahead import LookaheadPart
from workbench.settings import settings
from workbench.training._ahead import LookaheadRecipe
from workbench.training._draft_heads import DraftHeadsRecipe
from workbench.training._recipe import Recipe

KINDS: dict[type, type[Recipe]] = {DraftHeads: DraftHeadsRecipe, LookaheadPart: LookaheadRecipe}
"""Kind of part -> the recipe that all parts of that kind share."""


def recipe_of(part: type[Any]) -> type[Recipe]:
    """The recipe of a part that was decorated as ``trained``: its kind's, with what the part's ``Training`` adds.

    Raises
    ------
    SettingError
        If it is a part of no such kind.
    """
    shared = next((recipe for kind, recipe in KINDS.items() if issubclass(part, kind)), None)
    if shared is None:
        known = " or ".join(kind.__name__ for kind in KINDS)
        raise SettingError(
            f"{part.__name__} is of no kind that has a recipe: derive it from {known}, or write a recipe"
        )
    own = getattr(part, "Training", None)
    about = own.__doc__ if own else f"{part.__name__} {shared.about}"
    named = {"__doc__": about, "__module__": "workbench.training", "kind": part, "paper": part.paper}
    return settings(type(part.recipe, (own, shared) if own else (shared,), named))
