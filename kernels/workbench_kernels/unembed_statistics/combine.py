"""What the parts of a vocabulary leave behind, and how the parts become one.

A part of the vocabulary is summed up by its log-sum-exp and by the mean logit under its own softmax. With
``L = logsumexp(L_part)`` the softmax over the whole vocabulary gives each part the weight ``w = exp(L_part - L)``, and
the entropy in nats is the sum over parts of ``w * (H_part - log w)``, where ``H_part = L_part - mean_part``.

Order among logits is kept in one integer per candidate: the logit's bits, made monotonic, above the complement of the
token id. The largest integer is the largest logit and, among equal logits, the smallest id: the order of a stable
descending sort, whatever the route by which candidates are found.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

LARGEST_ID = 2**31 - 1
LOWEST_KEY = -(2**63)


def keys_of(logits: Float[Tensor, "*shape"], ids: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """One int64 per candidate that orders by logit, larger first, and then by id, smaller first."""
    bits = (logits.float() + 0.0).view(torch.int32)  # adding zero turns -0.0 into 0.0, which it equals
    monotonic = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (monotonic.long() << 32) | (LARGEST_ID - ids.long())


def candidates_of(keys: Int[Tensor, "*shape"]) -> tuple[Int[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    """The ids (int64) and the logits (float32) that `keys_of` put together."""
    monotonic = (keys >> 32).int()
    bits = monotonic ^ ((monotonic >> 31) & 0x7FFFFFFF)
    return LARGEST_ID - (keys & 0xFFFFFFFF), bits.view(torch.float32)


def merge_parts(
    log_sum_exp: Float[Tensor, "rows parts"], mean: Float[Tensor, "rows parts"]
) -> tuple[Float[Tensor, " rows"], Float[Tensor, " rows"]]:
    """Log-sum-exp and entropy (nats) over the vocabulary from those of its parts."""
    total = torch.logsumexp(log_sum_exp, -1)
    # the entropy of the choice of a part plus that within it: differences of close numbers only, so float32 suffices
    within = (log_sum_exp - mean).clamp_min(0.0)
    choice = total[:, None] - log_sum_exp
    return total, (torch.softmax(log_sum_exp, -1) * (within + choice)).sum(-1).clamp_min(0.0)
