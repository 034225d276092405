"""A few of many prompts: some of every kind, and the same ones every time."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from workbench.errors import PromptError
from workbench.tasks.prompt import Prompt

__all__ = ["stratified"]


def stratified(prompts: Sequence[Prompt], limit: int | None) -> list[Prompt]:
    """At most so many prompts, of every task and category as equally many as there are.

    Tasks, and categories in them (the metadata's ``category``), take turns in the order in which they first appear,
    each giving its prompts from its own first on; what is taken stands in the order of the whole. With fewer than there
    are categories, the first of them have one each. Nothing is left to chance.

    Parameters
    ----------
    prompts
    limit
        None for all.

    Raises
    ------
    PromptError
        `limit` is not positive.
    """
    if limit is None:
        return list(prompts)
    if limit < 1:
        raise PromptError(f"limit must be 1 or more, not {limit}")
    strata: dict[tuple[str, str], list[int]] = {}
    for place, prompt in enumerate(prompts):
        strata.setdefault((prompt.task, str(prompt.metadata.get("category", ""))), []).append(place)
    taken = [place for turn in zip_longest(*strata.values()) for place in turn if place is not None][:limit]
    return [prompts[place] for place in sorted(taken)]
