"""How sure a prediction in the middle of a model is, as a number from 0 to 1, and thresholds for it.

Source
------
Top-two margin, saturation and the decaying threshold: Schuster et al., Confident Adaptive Language Modeling, 2022,
arXiv 2207.07061. Entropy: Teerapittayanon et al., BranchyNet, 2017, arXiv 1709.01686.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Measure = Literal["probability", "margin", "entropy", "saturation"]


def confidence(measure: Measure, logits: Tensor) -> Tensor:
    """Confidence [rows], float32, of next-token logits [rows, tokens].

    Parameters
    ----------
    measure : {"probability", "margin", "entropy"}
        The first token's probability; that less the second's; or one less the entropy over that of all tokens alike.
    logits : Tensor [rows, tokens]
    """
    logits = logits.float()
    if measure == "entropy":
        most = math.log(max(2, logits.shape[-1]))
        return 1 - torch.special.entr(logits.softmax(-1)).sum(-1) / most
    best = logits.topk(min(2, logits.shape[-1]), -1).values
    chances = (best - logits.logsumexp(-1, keepdim=True)).exp()
    return chances[:, 0] if measure == "probability" else chances[:, 0] - chances[:, 1:].sum(-1)


def saturation(x: Tensor, before: Tensor) -> Tensor:
    """Confidence [rows], float32: the cosine of the streams [rows, width] after a layer and before it, none below 0."""
    return F.cosine_similarity(x.float(), before.float(), dim=-1).clamp(0, 1)


def decayed(threshold: float, decay: float, token: int, tokens: int) -> float:
    """The threshold at a place of the output: ``clip(0.9 threshold + 0.1 exp(-decay token / tokens))`` to 0 … 1.

    Early tokens get more layers, as all later ones hang on them. A decay of 0 leaves the threshold as it is.

    Parameters
    ----------
    threshold, decay : float
    token : int
        Tokens generated before this one.
    tokens : int
        Most tokens of the output.
    """
    if not decay:
        return threshold
    return min(1.0, max(0.0, 0.9 * threshold + 0.1 * math.exp(-decay * token / max(1, tokens))))
