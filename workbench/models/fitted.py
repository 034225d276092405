"""A model whose logits have the same places as another's of the same tokens, though its embedding is padded otherwise.

Embeddings are padded to sizes that suit the hardware: SmolLM2 has 49,152 rows and copies of it 49,280, Qwen2.5 has
151,936 or 152,064 for one tokenizer. Rows past the tokenizer's last token mean nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from workbench.models.anatomy import Anatomy
from workbench.models.model import Model
from workbench.models.projection import some_outputs


def fitted(model: Model, vocabulary: int) -> Model:
    """``model`` with ``vocabulary`` logits; the weights are shared.

    Parameters
    ----------
    model : Model
    vocabulary : int
        With fewer than its own the last ones are left out before anything is made of the logits, so that what is
        sampled from them is normalised over the others. With more, those that it lacks have a logit of minus infinity,
        and read as input they are a vector of zeros.
    """
    own = model.anatomy.vocabulary
    if vocabulary == own:
        return model
    view = model.variant()
    view.anatomy.vocabulary = vocabulary
    if vocabulary < own:
        view.anatomy.head = some_outputs(model.anatomy.head, slice(vocabulary))
    else:
        view.anatomy.__class__ = _Widened
    return view


class _Widened(Anatomy):
    """An anatomy of more tokens than there are rows for."""

    def embed(self, tokens: Tensor, positions: Tensor, rows: Tensor | None = None) -> Tensor:
        known = tokens < self._embedding.weight.shape[0]
        x = super().embed(torch.where(known, tokens, 0), positions, rows)
        return torch.where(known[..., None], x, 0.0)

    def unembed(self, x: Tensor) -> Tensor:
        logits = super().unembed(x)
        return F.pad(logits, (0, self.vocabulary - logits.shape[-1]), value=float("-inf"))
