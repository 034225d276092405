"""Tree-mask attention: a few dozen drafted tokens read a long cache, and of one another only their ancestors.

A verification forward gives the model all nodes of a drafted tree at once. Every node sees the whole cache before the
tree, and within the tree the way from the root to itself (Miao et al., SpecInfer, 2023, arXiv 2305.09781). The cache
is long and the tree is small, so all but the last few columns of the mask are open: the kernel reads a mask for the
tree's own columns alone, and the torch path makes one once per step and uses it in every layer.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from workbench_kernels.dispatch import BackendUnavailable, choose_backend

__all__ = ["BackendUnavailable", "TreeAttention", "TreeVerification", "tree_attention"]

_OFFERED = ("triton", "native", "torch", "reference")


@dataclass(frozen=True)
class TreeAttention:
    """What `tree_attention` returns.

    Attributes
    ----------
    weighted : Tensor [batch, heads, tokens, head_dim]
        The weighted values, in the dtype of the query.
    backend : str
        Which implementation ran: ``triton``, ``native``, ``torch`` or ``reference``.
    """

    weighted: Tensor
    backend: str


class TreeVerification:
    """One drafted tree, made ready once and then attended by every layer of a step; it gives bare tensors.

    Parameters
    ----------
    ancestors : bool Tensor [tokens, tokens]
        True where the row's token may see the column's: its ancestors. Every token sees itself, marked or not.
    backend : {'triton', 'native', 'torch', 'reference'}, optional
        None chooses Triton on CUDA and one call of torch's fused attention elsewhere.

    Attributes
    ----------
    backend : str
        Which implementation runs.

    Raises
    ------
    ValueError
        If `ancestors` is not a square of bool, or is empty.
    BackendUnavailable
        If `backend` cannot run here.

    Notes
    -----
    What a layer of new shapes needs is checked and made at its first call and kept; the others look it up. So an
    instance belongs to one step: it would keep one mask per length of the cache.
    """

    def __init__(self, ancestors: Tensor, backend: str | None = None) -> None:
        if ancestors.ndim != 2 or ancestors.shape[0] != ancestors.shape[1] or not len(ancestors):
            raise ValueError(f"ancestors must be [tokens, tokens]; its shape is {list(ancestors.shape)}.")
        if ancestors.dtype != torch.bool:
            raise ValueError(f"ancestors is {ancestors.dtype}; it must be bool.")
        self.backend = choose_backend(backend, ancestors.device, _OFFERED)
        self._visible = ancestors | torch.eye(len(ancestors), dtype=torch.bool, device=ancestors.device)
        self._run, self._prepare = self._route()
        self._prepared: dict[tuple, Tensor] = {}

    def __call__(self, query: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
        """The weighted values alone; arguments, result and errors are those of `tree_attention`.

        With the backends ``torch`` and ``reference`` a gradient passes through; the kernels have none.
        """
        shapes = (query.shape, keys.shape, values.shape, query.dtype, keys.dtype, values.dtype)
        prepared = self._prepared.get(shapes)
        if prepared is None:
            _check(query, keys, values, self._visible)
            prepared = self._prepared[shapes] = self._prepare(query, keys)
        return self._run(query, keys, values, prepared, scale)

    def _route(self) -> tuple[Callable[..., Tensor], Callable[[Tensor, Tensor], Tensor]]:
        """The function that attends, and the one that makes what it needs of the tree: [tokens, tokens] or wider."""
        visible = self._visible
        if self.backend == "triton":
            from workbench_kernels.tree_attention.kernel import triton_attention

            marks = visible.to(torch.uint8).contiguous()
            return triton_attention, lambda query, keys: marks
        if self.backend == "native":
            from workbench_kernels.tree_attention.native import native_attention

            bits = visible.to(torch.uint8).contiguous()
            return native_attention, lambda query, keys: bits
        if self.backend == "torch":
            from workbench_kernels.tree_attention.grouped import additive_mask, grouped_attention

            return grouped_attention, lambda query, keys: additive_mask(
                visible, keys.shape[2], query.shape[1] // keys.shape[1], query.dtype
            )
        from workbench_kernels.tree_attention.reference import reference_attention

        return lambda query, *rest: reference_attention(query, *rest).to(query.dtype), lambda query, keys: visible


@torch.no_grad()
def tree_attention(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    ancestors: Tensor,
    scale: float,
    *,
    backend: str | None = None,
) -> TreeAttention:
    """Attention of drafted tokens over a cache that ends with them.

    Parameters
    ----------
    query : Tensor [batch, heads, tokens, head_dim]
        Of the drafted tokens; `heads` is a multiple of `kv_heads`, and heads that share a KV head stand together.
    keys, values : Tensor [batch, kv_heads, held, head_dim]
        Everything held. The last `tokens` entries are the drafted tokens' own, in the order of the query; all earlier
        ones are visible to every query. Views of a larger buffer are fine.
    ancestors : bool Tensor [tokens, tokens]
        True where the row's token may see the column's: its ancestors. Every token sees itself, marked or not.
    scale : float
        Factor on the products of queries and keys.
    backend : {'triton', 'native', 'torch', 'reference'}, optional
        None chooses Triton on CUDA and one call of torch's fused attention elsewhere.

    Returns
    -------
    TreeAttention
        With the name of the backend that ran. A loop over layers uses `TreeVerification`, which gives bare tensors.

    Raises
    ------
    ValueError
        If a shape, dtype or device does not fit, or a kernel is asked for a dtype or `head_dim` that it does not take.
    BackendUnavailable
        If `backend` cannot run here.

    Notes
    -----
    Nothing is checked for NaN: one in a visible key or value ends up in the result.
    """
    verification = TreeVerification(ancestors, backend)
    return TreeAttention(verification(query, keys, values, scale), verification.backend)


def _check(query: Tensor, keys: Tensor, values: Tensor, visible: Tensor) -> None:
    """Raise ValueError for arguments that do not fit together."""
    shapes = f"query is {list(query.shape)}, keys {list(keys.shape)}, values {list(values.shape)}"
    if query.ndim != 4 or keys.ndim != 4 or keys.shape != values.shape or 0 in query.shape or 0 in keys.shape:
        raise ValueError(
            "query [batch, heads, tokens, head_dim] and keys and values [batch, kv_heads, held, head_dim] are needed, "
            f"none empty; {shapes}."
        )
    if query.shape[0] != keys.shape[0] or query.shape[3] != keys.shape[3] or query.shape[1] % keys.shape[1]:
        raise ValueError(f"Batch and head_dim must be equal, and heads a multiple of kv_heads; {shapes}.")
    if query.shape[2] != len(visible) or keys.shape[2] < len(visible):
        raise ValueError(f"ancestors has {len(visible)} tokens, and the cache must hold them all; {shapes}.")
    for name, tensor in (("query", query), ("keys", keys), ("values", values)):
        if not tensor.is_floating_point() or tensor.dtype != query.dtype:
            raise ValueError(f"{name} is {tensor.dtype}; all three must be of one floating point dtype.")
        if tensor.device != visible.device:
            raise ValueError(f"{name} is on {tensor.device}, ancestors on {visible.device}.")
