"""Verify at load that a model's anatomy is right, on its own weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from workbench.errors import CorruptModel, UnsupportedModel
from workbench.models.anatomy import Anatomy
from workbench.models.attention import attention_rows
from workbench.models.block import Block
from workbench.models.rotary import original_positions
from workbench.models.walk import walk

_TOLERANCE = {torch.float32: 2e-3, torch.bfloat16: 0.15, torch.float16: 0.03}
_TOKENS = 24


@torch.no_grad()
def untouched(hf: Any) -> tuple[Tensor, Tensor]:
    """A short sequence and the logits that a transformers model gives it, before an `Anatomy` has laid hands on it.

    An anatomy joins parameters in place, so that a model seen afterwards would share its faults.

    Parameters
    ----------
    hf : transformers.PreTrainedModel
        In evaluation mode.

    Returns
    -------
    tokens : int Tensor [1, tokens]
    logits : Tensor [1, tokens, vocabulary]
        In float32.

    Raises
    ------
    CorruptModel
        If its weights hold NaN, or infinity in float32.
    UnsupportedModel
        If a sum overflows its number format.
    """
    rows = hf.get_output_embeddings().weight.shape[0]
    length = min(_TOKENS, getattr(hf.config, "max_position_embeddings", _TOKENS))
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, rows, (1, length), generator=generator).to(hf.device)
    logits = hf(tokens, use_cache=False).logits.float()
    if not logits.isfinite().all():
        raise _not_finite(hf)
    return tokens, logits


def _not_finite(hf: Any) -> CorruptModel | UnsupportedModel:
    """Why a model's logits are not finite: a damaged file, or a number format that is too narrow."""
    half = hf.dtype != torch.float32
    for name, weight in hf.named_parameters():
        if weight.isnan().any() or (not half and weight.isinf().any()):
            return CorruptModel(f"the weights hold NaN or infinity, first in {name}: take the model's files anew")
    if not half:
        return UnsupportedModel("this model's logits are NaN or infinite even in float32")
    name = str(hf.dtype).removeprefix("torch.")
    wider = "bfloat16 or float32" if hf.dtype == torch.float16 else "float32"
    return UnsupportedModel(
        f"this model overflows in {name}: its logits are NaN or infinite. Load it with dtype {wider}"
    )


@torch.no_grad()
def verify(hf: Any, anatomy: Anatomy, expected: tuple[Tensor, Tensor] | None = None) -> dict[str, float]:
    """Run a short sequence through the anatomy's steps, and compare with what the model gave before and gives now.

    Rotary tables that hang on the length of the text are compared with the model's own on both sides of the length from
    which on they are others, which no short sequence reaches.

    Parameters
    ----------
    hf : transformers.PreTrainedModel
    anatomy : Anatomy
    expected : tokens, logits
        What `untouched` gave before the anatomy was made; by default the model as it is now.

    Returns
    -------
    dict
        ``attention_row_sum`` : largest deviation of an attention row's sum from one; ``logits`` : largest deviation of
        the logits, divided by their standard deviation (in reduced precision the median over positions of it).

    Raises
    ------
    UnsupportedModel
        If a shape, a row sum, a table or the logits disagree; the message says which and by how much.
    """
    for kind in anatomy.growing:
        _prove_tables(anatomy, kind)
    tokens, logits = expected or untouched(hf)
    length = tokens.shape[1]
    positions = torch.arange(length, device=anatomy.device)
    ropes = anatomy.rope(positions)
    x = anatomy.embed(tokens, positions)
    row_sums = [0.0]

    def attend(block: Block, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        _shape(anatomy, block.index, "queries", query, (1, block.heads, length, block.head_dim))
        for name, tensor in (("keys", key), ("values", value)):
            _shape(anatomy, block.index, name, tensor, (1, block.kv_heads, length, block.head_dim))
        rows = attention_rows(query, key, block.scoring, block.window)
        excess = rows.sum(-1) - 1
        # A sink takes its share of a row.
        row_sums.append(float((excess.abs() if block.scoring.sinks is None else excess.clamp_min(0)).max()))
        return rows.to(value.dtype) @ value.repeat_interleave(block.heads // block.kv_heads, 1)

    def see(layer: int, stream: Tensor) -> None:
        _shape(anatomy, layer, "residual stream", stream, (1, length, anatomy.width))

    x = walk(anatomy.blocks, x, ropes, attend, see)
    see(anatomy.layers, x)
    row_sum = max(row_sums)
    if row_sum > 1e-3:
        raise UnsupportedModel(f"attention rows of {anatomy.family.title} miss a sum of one by {row_sum:.2g}")
    deviation = _deviation(anatomy, anatomy.unembed(x).float(), logits, "the steps")
    # The transformers model stays usable: what was joined must still be what it was.
    _deviation(anatomy, hf(tokens, use_cache=False).logits.float(), logits, "the joined projections")
    return {"attention_row_sum": row_sum, "logits": deviation}


def _deviation(anatomy: Anatomy, ours: Tensor, expected: Tensor, what: str) -> float:
    """Largest deviation of logits in units of their spread, or `UnsupportedModel`."""
    worst = (ours - expected).abs().amax(-1).flatten() / expected.std()
    # In reduced precision a near tie of a router may fall the other way at single positions; the median may not.
    deviation = float(worst.max() if anatomy.dtype == torch.float32 else worst.median())
    tolerance = _TOLERANCE.get(anatomy.dtype, 0.15)
    if not deviation <= tolerance:
        raise UnsupportedModel(
            f"{what} of {anatomy.family.title} do not reproduce this model: logits deviate by {deviation:.2g} of "
            f"their spread (allowed {tolerance:g}); the model may use an option that is not supported"
        )
    return deviation


def _prove_tables(anatomy: Anatomy, kind: str) -> None:
    original = original_positions(anatomy.config, kind)
    # In this order, as dynamic scaling remembers the longest text; a text of one token makes it forget.
    for length in (1, original, original + 1, 2 * original, 1):
        positions = torch.tensor([0, length // 2, length - 1], device=anatomy.device)
        expected = anatomy.rope_of_model(kind, positions)
        for ours, own in zip(anatomy.rope(positions, length)[kind], expected):
            deviation = float((ours.float() - own.float()).abs().max())
            if not deviation <= _TOLERANCE.get(ours.dtype, 0.15):
                raise UnsupportedModel(
                    f"the rotary tables of {anatomy.family.title} are not this model's own in a text of {length:,} "
                    f"tokens: they deviate by {deviation:.2g}"
                )


def _shape(anatomy: Anatomy, layer: int, name: str, tensor: Tensor, expected: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != expected:
        raise UnsupportedModel(
            f"{anatomy.family.title}, layer {layer}: {name} have shape {tuple(tensor.shape)}, not {expected}"
        )
