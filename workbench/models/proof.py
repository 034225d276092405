"""Prove at load that a model's anatomy is right, on its own weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from workbench.errors import UnsupportedModel
from workbench.models.anatomy import Anatomy
from workbench.models.attention import attention_rows

_TOLERANCE = {torch.float32: 2e-3, torch.bfloat16: 0.15, torch.float16: 0.03}
_TOKENS = 24


@torch.no_grad()
def prove(hf: nn.Module, anatomy: Anatomy) -> dict[str, float]:
    """Run a short sequence through the anatomy's steps and through the model itself, and compare.

    Parameters
    ----------
    hf : transformers.PreTrainedModel
    anatomy : Anatomy

    Returns
    -------
    dict
        ``attention_row_sum`` : largest deviation of an attention row's sum from one; ``logits`` : largest deviation of
        the logits, divided by their standard deviation (in reduced precision the median over positions of it).

    Raises
    ------
    UnsupportedModel
        If a shape, a row sum or the logits disagree; the message says which and by how much.
    """
    length = min(_TOKENS, anatomy.positions)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, anatomy.vocabulary, (1, length), generator=generator).to(anatomy.device)
    positions = torch.arange(length, device=anatomy.device)
    ropes = anatomy.rope(positions)
    x = anatomy.embed(tokens, positions)
    row_sum = 0.0
    for block in anatomy.blocks:
        query, key, value = block.enter(x, ropes.get(block.rope_kind))
        _shape(anatomy, block.index, "queries", query, (1, block.heads, length, block.head_dim))
        for name, tensor in (("keys", key), ("values", value)):
            _shape(anatomy, block.index, name, tensor, (1, block.kv_heads, length, block.head_dim))
        rows = attention_rows(query, key, block.scoring, block.window)
        excess = rows.sum(-1) - 1
        # A sink takes its share of a row.
        row_sum = max(row_sum, float((excess.abs() if block.scoring.sinks is None else excess.clamp_min(0)).max()))
        attended = rows.to(value.dtype) @ value.repeat_interleave(block.heads // block.kv_heads, 1)
        x = block.leave(x, attended)
        _shape(anatomy, block.index, "residual stream", x, (1, length, anatomy.width))
    if row_sum > 1e-3:
        raise UnsupportedModel(f"attention rows of {anatomy.family.title} miss a sum of one by {row_sum:.2g}")
    expected = hf(tokens).logits.float()
    ours = anatomy.unembed(x).float()
    worst = (ours - expected).abs().amax(-1).flatten() / expected.std()
    # In reduced precision a near tie of a router may fall the other way at single positions; the median may not.
    deviation = float(worst.max() if anatomy.dtype == torch.float32 else worst.median())
    tolerance = _TOLERANCE.get(anatomy.dtype, 0.15)
    if not deviation <= tolerance:
        raise UnsupportedModel(
            f"the steps of {anatomy.family.title} do not reproduce this model: logits deviate by {deviation:.2g} of "
            f"their spread (allowed {tolerance:g}); the model may use an option that is not supported"
        )
    return {"attention_row_sum": row_sum, "logits": deviation}


def _shape(anatomy: Anatomy, layer: int, name: str, tensor: Tensor, expected: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != expected:
        raise UnsupportedModel(
            f"{anatomy.family.title}, layer {layer}: {name} have shape {tuple(tensor.shape)}, not {expected}"
        )
