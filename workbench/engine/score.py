"""Teacher-forced logits of several texts in one batch: the baseline's view, with no technique between tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from workbench.engine.attention import attend
from workbench.models import Model


@torch.inference_mode()
def score(model: Model, texts: Sequence[str | Sequence[int]]) -> list[Tensor]:
    """Next-token logits after every token of several texts.

    Parameters
    ----------
    model : Model
    texts : sequence of str or token ids
        Shorter ones are padded at their end, where causal attention lets nobody look.

    Returns
    -------
    list of Tensor [tokens, vocabulary]
        One for each text, as long as it is.

    Raises
    ------
    PromptError
        If a text is empty or longer than the model's positions.
    """
    ids = [model.encode(text) for text in texts]
    longest = max(map(len, ids), default=0)
    if not longest:
        return []
    anatomy = model.anatomy
    padded = torch.tensor([each + [each[-1]] * (longest - len(each)) for each in ids], device=anatomy.device)
    positions = torch.arange(longest, device=anatomy.device)
    distance = positions[:, None] - positions
    x, ropes = anatomy.embed(padded, positions), anatomy.rope(positions)
    for block in anatomy.blocks:
        query, key, value = block.enter(x, ropes.get(block.rope_kind))
        visible = distance >= 0 if block.window is None else (distance >= 0) & (distance < block.window)
        x = block.leave(x, attend(query, key, value, visible, block.scoring))
    return [anatomy.unembed(row[: len(each)]) for row, each in zip(x, ids, strict=True)]
