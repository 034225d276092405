"""A prompt in segments: texts or token ids, and rows that enter as embeddings: an image's, say, or a soft prompt's.

A row without a token has a *placeholder* where token ids stand: row k of a prompt's embeddings is ``-1 - k``. No two
rows have the same one, so what looks for repetitions in a text finds none there, and the id alone says which row it is:
chunks, sessions and a cache that is computed anew need nothing more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True, eq=False)
class EmbeddingSegment:
    """Rows that enter a model in the place of what its embedding layer gives.

    Attributes
    ----------
    rows : Tensor [rows, width]
        As transformers' ``inputs_embeds``: factors of the family and learned positions are still to come. They are
        brought to the model's dtype and device.
    """

    rows: Tensor


@dataclass(frozen=True, eq=False)
class Prompt:
    """A prompt as the loop reads it.

    Attributes
    ----------
    tokens : list of int
        Token ids, and a placeholder for every row without one.
    embeddings : Tensor [rows, width] or None
        Row k is that of the placeholder ``-1 - k``; None where every row has a token.
    """

    tokens: list[int]
    embeddings: Tensor | None = None


NO_IDS = "rows that enter as embeddings have no token ids: only generate and teacher_force take them"


def has_embeddings(prompt: Any) -> bool:
    """Whether a prompt is a segment of embeddings, or a sequence with one among others."""
    if isinstance(prompt, list | tuple):
        return any(isinstance(each, EmbeddingSegment) for each in prompt)
    return isinstance(prompt, EmbeddingSegment)
