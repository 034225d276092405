"""Teacher-forced logits of several texts in one batch: the baseline's view, with no technique between tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from workbench.engine.attention import attend
from workbench.models import Anatomy, Block, Model
from workbench.models.rotate import Rope
from workbench.models.walk import walk


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
        One for each text, as long as it is: what transformers gives for that text alone. Where rotary factors hang on
        the length of the text, all of it is read with those of its whole length, while generation, and
        :func:`workbench.teacher_force`, read each token with those of the text up to it.

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
    x, ropes = anatomy.embed(padded, positions), _ropes(anatomy, positions, list(map(len, ids)))

    def look_back(block: Block, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        visible = distance >= 0 if block.window is None else (distance >= 0) & (distance < block.window)
        return attend(query, key, value, visible, block.scoring)

    x = walk(anatomy.blocks, x, ropes, look_back)
    return [anatomy.unembed(row[: len(each)]) for row, each in zip(x, ids, strict=True)]


def _ropes(anatomy: Anatomy, positions: Tensor, lengths: Sequence[int]) -> dict[str, Rope]:
    """Tables of a batch: one for all texts, or [texts, tokens, 1, rotary_dim] where each has its own."""
    if not anatomy.growing:
        return anatomy.rope(positions)
    each = [anatomy.rope(positions, length) for length in lengths]
    return {
        kind: (torch.stack([rope[kind][0] for rope in each]), torch.stack([rope[kind][1] for rope in each]))
        for kind in each[0]
    }
