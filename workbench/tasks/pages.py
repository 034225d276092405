"""Which prompts come from the same page, so that a split into two parts never has it on both sides."""

from __future__ import annotations

import re
from collections.abc import Sequence

from workbench.tasks.prompt import Prompt

__all__ = ["shared_pages"]

_OWN = "written for this project"


def shared_pages(prompts: Sequence[Prompt]) -> list[int]:
    """The group of each prompt: two that share a page are in one, and so are all that a chain of such pairs joins.

    A page is a section of the handbook, a page of the documentation, a module, or a chapter of a book, as ``source`` in
    the metadata names it; several are parted by semicolons. Prompts written for this project share one where their
    ``pattern`` is the same, and stand alone without.

    Parameters
    ----------
    prompts
        With a ``source`` in the metadata; those without one stand alone.

    Returns
    -------
    list of int
        Numbered from 0 in the order of their first prompts.
    """
    joined: dict[str, str] = {}

    def root(name: str) -> str:
        while joined.setdefault(name, name) != name:
            name = joined[name]
        return name

    firsts = []
    for prompt in prompts:
        first, *others = _pages(prompt)
        firsts.append(first)
        for other in others:
            joined[root(other)] = root(first)
        root(first)
    numbers: dict[str, int] = {}
    return [numbers.setdefault(root(first), len(numbers)) for first in firsts]


def _pages(prompt: Prompt) -> list[str]:
    source = prompt.metadata.get("source", _OWN)
    if source == _OWN:
        return [f"pattern {prompt.metadata['pattern']}" if "pattern" in prompt.metadata else f"prompt {prompt.id}"]
    return [_page(part.strip()) for part in source.split(";")]


def _page(source: str) -> str:
    """``library/os.path: join`` is on the page ``library/os.path``, ``ast.main`` in the module ``ast``."""
    if source.startswith("Python standard library, "):
        return source.rpartition(".")[0]
    return re.split(r":", source, maxsplit=1)[0]
