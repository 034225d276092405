"""Fused unembedding statistics: what a row of the residual stream says about the next token, without its logits.

For rows of the residual stream: final norm, unembedding, and from the logits, which are never stored whole, the top-k,
log-sum-exp, entropy, and the logit, probability and rank of a target token. The logit lens, the next-token entropy and
the early-exit tests all read these numbers.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from workbench_kernels.dispatch import BackendUnavailable, choose_backend
from workbench_kernels.unembed_statistics.norm import Norm

__all__ = ["MAX_TOP_K", "BackendUnavailable", "Norm", "UnembedStatistics", "unembed_statistics"]

MAX_TOP_K = 32


@dataclass(frozen=True)
class UnembedStatistics:
    """Statistics of the next-token distribution, one entry per row.

    Attributes
    ----------
    top_ids : Tensor [rows, k], int64
        The best tokens, best first; among equal logits the smaller id comes first.
    top_logits : Tensor [rows, k], float32
    log_sum_exp : Tensor [rows], float32
    entropy : Tensor [rows], float32
        In nats.
    target_logit : Tensor [rows], float32, or None
        None when no target was given.
    target_rank : Tensor [rows], int64, or None
        0 is the best. Tokens with a larger logit are ahead, and those with an equal logit and a smaller id.
    backend : str
        Which implementation ran: ``triton``, ``torch`` or ``reference``.
    """

    top_ids: Tensor
    top_logits: Tensor
    log_sum_exp: Tensor
    entropy: Tensor
    target_logit: Tensor | None
    target_rank: Tensor | None
    backend: str

    @property
    def top_log_probabilities(self) -> Tensor:
        """Natural logarithm of the probabilities of `top_ids`, [rows, k]."""
        return self.top_logits - self.log_sum_exp[:, None]

    @property
    def top_probabilities(self) -> Tensor:
        """Probabilities of `top_ids`, [rows, k]."""
        return self.top_log_probabilities.exp()

    @property
    def target_log_probability(self) -> Tensor | None:
        """Natural logarithm of the target's probability, [rows], or None without a target."""
        return None if self.target_logit is None else self.target_logit - self.log_sum_exp

    @property
    def target_probability(self) -> Tensor | None:
        """Probability of the target, [rows], or None without a target."""
        return None if self.target_logit is None else self.target_log_probability.exp()


@torch.no_grad()
def unembed_statistics(
    rows: Tensor,
    weight: Tensor,
    *,
    norm: Norm | None = None,
    bias: Tensor | None = None,
    scale: float = 1.0,
    softcap: float | None = None,
    target: Tensor | int | None = None,
    top_k: int = 5,
    backend: str | None = None,
) -> UnembedStatistics:
    """Statistics of ``softmax(cap(scale * (norm(rows) @ weight.T + bias)))`` per row.

    Parameters
    ----------
    rows : Tensor [rows, width]
        The residual stream, before the final norm (or after it, with `norm` None).
    weight : Tensor [vocabulary, width]
        The unembedding. Normed rows are rounded to its dtype before the product.
    norm : Norm, optional
        The final norm; None when the rows are normed already.
    bias : Tensor [vocabulary], optional
    scale : float
        Factor on the logits (Cohere, Granite).
    softcap : float, optional
        Logits become ``softcap * tanh(logits / softcap)`` (Gemma 2).
    target : Tensor [rows] of integers, or int, optional
        The token whose logit and rank are wanted; one for all rows when an int.
    top_k : int
        From 1 to 32, and not more than the vocabulary.
    backend : {'triton', 'torch', 'reference'}, optional
        None chooses Triton on CUDA and the chunked torch path elsewhere.

    Returns
    -------
    UnembedStatistics
        With the name of the backend that ran.

    Raises
    ------
    ValueError
        If a shape, dtype or device does not fit, `top_k` is out of range, or a target is not in the vocabulary.
    BackendUnavailable
        If `backend` cannot run here.
    FloatingPointError
        If any logit is NaN or infinite.

    Notes
    -----
    In bfloat16 and float16 the torch path rounds the logits to that dtype, as the model's own forward does, so equal
    logits are common and ranks far from the top are coarse. The kernel keeps them in float32.
    """
    norm = Norm() if norm is None else norm
    _check(rows, weight, norm, bias, softcap, top_k)
    target = _as_target(target, rows, weight.shape[0])
    chosen = choose_backend(backend, rows.device)
    if chosen == "triton" and rows.shape[0]:
        from workbench_kernels.unembed_statistics.kernel import triton_statistics as run
    elif chosen == "torch" and rows.shape[0]:
        from workbench_kernels.unembed_statistics.chunked import chunked_statistics as run
    else:
        from workbench_kernels.unembed_statistics.reference import reference_statistics as run
    statistics = run(rows, weight, norm, bias, scale, softcap, target, top_k)
    finite = statistics["entropy"].isfinite()  # NaN or infinity in any logit of a row ends up here
    if not finite.all():
        first = int((~finite).nonzero()[0, 0])
        raise FloatingPointError(
            f"{int((~finite).sum())} of {rows.shape[0]} rows have NaN or infinite logits, the first is row {first}."
        )
    return UnembedStatistics(**statistics, backend=chosen)


def _check(rows: Tensor, weight: Tensor, norm: Norm, bias: Tensor | None, softcap: float | None, top_k: int) -> None:
    """Raise ValueError for arguments that do not fit together."""
    if rows.ndim != 2 or weight.ndim != 2 or rows.shape[1] != weight.shape[1] or 0 in weight.shape:
        raise ValueError(
            "rows [rows, width] and weight [vocabulary, width] must share their width; "
            f"they are {list(rows.shape)} and {list(weight.shape)}."
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias has shape {list(bias.shape)}; the vocabulary is {weight.shape[0]}.")
    for name, tensor in (("rows", rows), ("weight", weight), ("bias", bias)):
        if tensor is not None and not tensor.is_floating_point():
            raise ValueError(f"{name} is {tensor.dtype}; it must be floating point.")
        if tensor is not None and tensor.device != weight.device:
            raise ValueError(f"{name} is on {tensor.device}, weight on {weight.device}.")
    norm.check(rows.shape[1], rows.device)
    if softcap is not None and softcap <= 0:
        raise ValueError(f"softcap is {softcap}; it must be positive.")
    if not 1 <= top_k <= min(MAX_TOP_K, weight.shape[0]):
        raise ValueError(f"top_k is {top_k}; it must be from 1 to {min(MAX_TOP_K, weight.shape[0])} here.")


def _as_target(target: Tensor | int | None, rows: Tensor, vocabulary: int) -> Tensor | None:
    """The target as int64 [rows], every id within the vocabulary."""
    if target is None:
        return None
    if isinstance(target, int):
        target = torch.full(rows.shape[:1], target, device=rows.device)
    if target.shape != rows.shape[:1] or target.is_floating_point() or target.device != rows.device:
        raise ValueError(
            f"target must hold one integer per row ({rows.shape[0]}) on {rows.device}; it is "
            f"{list(target.shape)} of {target.dtype} on {target.device}."
        )
    target = target.long()
    outside = (target < 0) | (target >= vocabulary)
    if outside.any():
        raise ValueError(f"Target {int(target[outside][0])} is not in the vocabulary of {vocabulary} tokens.")
    return target
