"""Which tokens a part can draft: those most frequent in the training text."""

from __future__ import annotations

from torch import Tensor

from workbench.models import Model


def most_frequent(model: Model, tokens: Tensor, size: int) -> tuple[Tensor, float]:
    """The ``size`` most frequent tokens, most frequent first, and the share of the text that they cover.

    Parameters
    ----------
    model : Model
        Of tokens that never came the first are taken, which a byte-pair tokenizer learned first.
    tokens : int Tensor [any]
    size : int

    Returns
    -------
    tokens : int Tensor [size]
    covered : float
    """
    counts = tokens.long().bincount(minlength=model.anatomy.vocabulary)
    ids = counts.argsort(descending=True, stable=True)[:size]
    return ids, round(float(counts[ids].sum() / counts.sum()), 5)
