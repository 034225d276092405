"""Read a prompt: its token ids, and the rows that enter as embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from workbench.errors import PromptError
from workbench.models.model import Model
from workbench.models.segments import EmbeddingSegment, Prompt, has_embeddings


def read_prompt(model: Model, prompt: Any, start: bool = True, before: Prompt | None = None) -> Prompt:
    """Tokens and embeddings of a prompt.

    Parameters
    ----------
    model : Model
    prompt : str, token ids, EmbeddingSegment or a sequence of these
        Whatever :meth:`workbench.models.Model.encode` takes; in a sequence with at least one segment of embeddings
        every other one is a text or token ids.
    start : bool
        Whether the text begins here; of several segments only a first one that is a text gets the tokens that the
        tokenizer puts around a text.
    before : Prompt, optional
        What comes first.

    Raises
    ------
    PromptError
        What :meth:`workbench.models.Model.encode` refuses, and rows that are not finite numbers of the model's width.
    """
    if before is None and not has_embeddings(prompt):
        return Prompt(model.encode(prompt, start))
    tokens = [] if before is None else list(before.tokens)
    rows = [] if before is None or before.embeddings is None else [before.embeddings]
    if not has_embeddings(prompt):
        tokens += model.encode(prompt, start) if len(prompt) else []
    else:
        held = 0 if not rows else len(rows[0])
        for place, segment in enumerate([prompt] if isinstance(prompt, EmbeddingSegment) else prompt):
            if isinstance(segment, EmbeddingSegment):
                rows.append(_rows(model, segment))
                tokens += range(-1 - held, -1 - held - len(segment.rows), -1)
                held += len(segment.rows)
            else:
                tokens += model.encode(segment, start and not place)
    check_length(model, tokens)
    return Prompt(tokens, torch.cat(rows) if rows else None)


def check_length(model: Model, tokens: Sequence[int], more: Sequence[int] = ()) -> None:
    """Refuse a text that was read, and ``more`` tokens after it, where they are too long or not the model's.

    Raises
    ------
    PromptError
    """
    model.encode([*(max(0, token) for token in tokens), *more])


def _rows(model: Model, segment: EmbeddingSegment) -> Tensor:
    rows, width = segment.rows, model.anatomy.width
    if not isinstance(rows, Tensor) or rows.dim() != 2 or rows.shape[1] != width or not len(rows):
        shape = f"has shape {list(rows.shape)}" if isinstance(rows, Tensor) else f"is a {type(rows).__name__}"
        raise PromptError(f"a segment of embeddings for {model.name} is a tensor [rows, {width}]; this one {shape}")
    if not rows.is_floating_point() or not rows.isfinite().all():
        raise PromptError("a segment of embeddings holds finite numbers, and this one does not: look at what made it")
    return rows.detach().to(model.device, model.dtype)
