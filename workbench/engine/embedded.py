"""Runs whose prompt has rows without tokens: which techniques go with them, and drafts that copy from such a prompt."""

from __future__ import annotations

from workbench.engine.composition import name_of
from workbench.engine.draft import Draft
from workbench.engine.recipe import Recipe
from workbench.errors import PromptError

_READ_TOKENS = {"draft", "logits", "switch"}


def check_reads_embeddings(recipe: Recipe) -> None:
    """Refuse techniques that would look up the tokens of rows that have none, or give them to another model.

    Raises
    ------
    PromptError
    """
    for technique in recipe.members:
        slots = sorted(_READ_TOKENS & set(technique.slots))
        if slots and not getattr(technique, "segments", False):
            raise PromptError(
                f"{name_of(technique)} reads the tokens of the prompt, and this one has rows that are embeddings: "
                "leave it out, or give the prompt as tokens"
            )


def only_tokens(draft: Draft) -> Draft:
    """A draft without the nodes that are placeholders, and without what follows them; no model can say these."""
    if not draft.tokens or min(draft.tokens) >= 0:
        return draft
    kept: list[int] = []
    for node, token in enumerate(draft.tokens):
        parent = draft.parent(node)
        if token >= 0 and (parent < 0 or parent in kept):
            kept.append(node)
    return draft.pruned(kept)
