"""Which parts are trained, under which name: the rows that the recipes of their kinds are made from."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import Any

ROWS: list[type] = []
"""Parts that a recipe of their kind trains, each with ``recipe``, the recipe's class name, and ``paper``."""


def trained(recipe: str, paper: str) -> Callable[[type], type]:
    """Decorate a part: ``workbench train`` knows it under a name, and its artefact is called so.

    Parameters
    ----------
    recipe : str
        As a class is named; that of the technique that the part is for: ``"HydraHeads"`` is ``hydra_heads``.
    paper : str
        Authors, title, year, arXiv id.
    """

    def decorate(part: Any) -> Any:
        part.recipe, part.paper = recipe, paper
        ROWS.append(part)
        return part

    return decorate


def import_all(package: str, path: Any) -> None:
    """Import every module of a folder of parts, so that a file in it is all that a new part needs."""
    for module in pkgutil.iter_modules(path):
        importlib.import_module(f"{package}.{module.name}")
