"""The Triton kernel: unembedding product and statistics in one pass, the logits live in registers only.

A program owns BLOCK_ROWS rows and one part of the vocabulary. It walks through its part block by block: product in
float32, then the running log-sum-exp and mean logit (rescaled when a larger logit appears, as in online softmax:
Milakov and Gimelshein, 2018, arXiv 1805.02867), the running top-k as integer keys (see `combine`), and the count of
tokens ahead of the target. The parts are merged in torch: they are a few numbers per row.

The norm is applied before the kernel, once per row. Inside, it would be repeated for every block of the vocabulary.
The target's logit comes from its own small product of the same shape in the inner dimension; since it may differ in
the last bit from the one in the large product, the target never counts as being ahead of itself.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from workbench_kernels.dispatch import interpreting
from workbench_kernels.unembed_statistics.combine import LOWEST_KEY, candidates_of, merge_parts
from workbench_kernels.unembed_statistics.norm import Norm

LOWEST = tl.constexpr(LOWEST_KEY)


@triton.jit
def _logits(
    rows_pointer, weight_pointer, bias_pointer, row_offsets, row_valid, ids, id_valid,
    width, row_stride, weight_stride, scale, softcap,
    HAS_BIAS: tl.constexpr, HAS_SOFTCAP: tl.constexpr, UPCAST: tl.constexpr,
    ROWS: tl.constexpr, IDS: tl.constexpr, BLOCK_WIDTH: tl.constexpr,
):  # fmt: skip
    """Logits of ROWS rows and IDS tokens in float32."""
    logits = tl.zeros((ROWS, IDS), tl.float32)
    for start in range(0, width, BLOCK_WIDTH):
        inner = start + tl.arange(0, BLOCK_WIDTH)
        inside = inner < width
        row_mask = row_valid[:, None] & inside[None, :]
        left = tl.load(rows_pointer + row_offsets[:, None] * row_stride + inner[None, :], mask=row_mask, other=0.0)
        id_mask = inside[:, None] & id_valid[None, :]
        right = tl.load(weight_pointer + ids[None, :] * weight_stride + inner[:, None], mask=id_mask, other=0.0)
        if UPCAST:
            left, right = left.to(tl.float32), right.to(tl.float32)
        logits = tl.dot(left, right, logits, input_precision="ieee")
    if HAS_BIAS:
        logits += tl.load(bias_pointer + ids, mask=id_valid, other=0.0).to(tl.float32)[None, :]
    logits *= scale
    if HAS_SOFTCAP:
        logits = softcap * (2.0 * tl.sigmoid(2.0 * logits / softcap) - 1.0)  # tanh
    return logits


@triton.jit
def _keys(logits, ids):
    """Integers that order by logit, larger first, then by id, smaller first: `combine.keys_of`."""
    bits = tl.where(logits == 0.0, 0.0, logits).to(tl.int32, bitcast=True)
    monotonic = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (monotonic.to(tl.int64) << 32) | (0x7FFFFFFF - ids)


@triton.jit
def partial_statistics(
    rows_pointer, weight_pointer, bias_pointer, target_pointer,
    log_sum_exp_pointer, mean_pointer, keys_pointer, target_logit_pointer, ahead_pointer,
    row_count, vocabulary, width, row_stride, weight_stride, part_tokens, scale, softcap,
    HAS_BIAS: tl.constexpr, HAS_TARGET: tl.constexpr, HAS_SOFTCAP: tl.constexpr, UPCAST: tl.constexpr,
    TOP_K: tl.constexpr, SLOTS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_VOCABULARY: tl.constexpr, BLOCK_WIDTH: tl.constexpr,
):  # fmt: skip
    """Statistics of one block of rows over one part of the vocabulary; SLOTS is the power of two from TOP_K on."""
    part = tl.program_id(1)
    parts = tl.num_programs(1)
    rows = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    row_valid = rows < row_count
    largest = tl.full((BLOCK_ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_ROWS,), tl.float32)
    moment = tl.zeros((BLOCK_ROWS,), tl.float32)
    ahead = tl.zeros((BLOCK_ROWS,), tl.int32)
    slots = tl.arange(0, SLOTS)
    # free slots hold distinct keys below every logit's; slots past TOP_K hold one that nothing beats
    best = tl.where(slots < TOP_K, LOWEST + 1 + slots.to(tl.int64), 0x7FFFFFFFFFFFFFFF)
    best = tl.broadcast_to(best[None, :], (BLOCK_ROWS, SLOTS))
    if HAS_TARGET:
        target = tl.load(target_pointer + rows, mask=row_valid, other=0)
        square = _logits(
            rows_pointer, weight_pointer, bias_pointer, rows, row_valid, target, row_valid,
            width, row_stride, weight_stride, scale, softcap,
            HAS_BIAS, HAS_SOFTCAP, UPCAST, BLOCK_ROWS, BLOCK_ROWS, BLOCK_WIDTH,
        )  # fmt: skip
        own = tl.arange(0, BLOCK_ROWS)[:, None] == tl.arange(0, BLOCK_ROWS)[None, :]
        target_logit = tl.sum(tl.where(own, square, 0.0), 1)
        if part == 0:
            tl.store(target_logit_pointer + rows, target_logit, mask=row_valid)
    for start in range(part * part_tokens, min((part + 1) * part_tokens, vocabulary), BLOCK_VOCABULARY):
        ids = start + tl.arange(0, BLOCK_VOCABULARY).to(tl.int64)
        id_valid = ids < vocabulary
        logits = _logits(
            rows_pointer, weight_pointer, bias_pointer, rows, row_valid, ids, id_valid,
            width, row_stride, weight_stride, scale, softcap,
            HAS_BIAS, HAS_SOFTCAP, UPCAST, BLOCK_ROWS, BLOCK_VOCABULARY, BLOCK_WIDTH,
        )  # fmt: skip
        if HAS_TARGET:
            tied = (logits == target_logit[:, None]) & (ids[None, :] < target[:, None])
            before = ((logits > target_logit[:, None]) | tied) & (ids[None, :] != target[:, None])
            ahead += tl.sum((before & id_valid[None, :]).to(tl.int32), 1)
        masked = tl.where(id_valid[None, :], logits, float("-inf"))
        larger = tl.maximum(largest, tl.max(masked, 1))
        rescale = tl.exp(largest - larger)
        exponentials = tl.exp(masked - larger[:, None])
        total = total * rescale + tl.sum(exponentials, 1)
        moment = moment * rescale + tl.sum(exponentials * tl.where(id_valid[None, :], logits, 0.0), 1)
        largest = larger
        keys = tl.where(id_valid[None, :], _keys(logits, ids[None, :]), LOWEST)
        challenger = tl.max(keys, 1)
        weakest = tl.min(best, 1)
        while tl.max((challenger > weakest).to(tl.int32), 0) > 0:
            replaced = (best == weakest[:, None]) & (challenger > weakest)[:, None]
            best = tl.where(replaced, challenger[:, None], best)
            keys = tl.where(keys == challenger[:, None], LOWEST, keys)
            challenger = tl.max(keys, 1)
            weakest = tl.min(best, 1)
    place = rows * parts + part
    tl.store(log_sum_exp_pointer + place, largest + tl.log(total), mask=row_valid)
    tl.store(mean_pointer + place, moment / total, mask=row_valid)
    kept = row_valid[:, None] & (slots < TOP_K)[None, :]
    tl.store(keys_pointer + place[:, None] * TOP_K + slots[None, :], best, mask=kept)
    if HAS_TARGET:
        tl.store(ahead_pointer + place, ahead, mask=row_valid)


def triton_statistics(
    rows: Tensor,
    weight: Tensor,
    norm: Norm,
    bias: Tensor | None,
    scale: float,
    softcap: float | None,
    target: Tensor | None,
    top_k: int,
    blocks: tuple[int, int, int] = (64, 128, 32),
    parts: int | None = None,
) -> dict[str, Tensor | None]:
    """All statistics by the kernel, logits in float32; `blocks` are powers of two from 16 on (rows, tokens, width).

    The arguments are those of `chunked.chunked_statistics`. Their shapes are not annotated with jaxtyping: its import
    hook decorates every function of a module that does so, and Triton cannot compile a decorated one.

    `parts` divides the vocabulary among programs; None takes as many as keep the device busy.

    Raises
    ------
    ValueError
        If the weights are float64, which the kernel does not have.
    """
    if weight.dtype == torch.float64:
        raise ValueError("The kernel has no float64; ask for backend 'torch' or 'reference'.")
    normed, weight = norm(rows, weight.dtype).contiguous(), weight.contiguous()
    bias, target = (None if given is None else given.contiguous() for given in (bias, target))
    count, vocabulary = rows.shape[0], weight.shape[0]
    row_blocks, token_blocks = triton.cdiv(count, blocks[0]), triton.cdiv(vocabulary, blocks[1])
    if parts is None:
        busy = 1 if interpreting() else 4 * torch.cuda.get_device_properties(rows.device).multi_processor_count
        parts = triton.cdiv(busy, row_blocks)
    part_blocks = triton.cdiv(token_blocks, min(parts, token_blocks))
    parts = triton.cdiv(token_blocks, part_blocks)  # no part is empty
    log_sum_exp, mean = normed.new_full((2, count, parts), torch.nan, dtype=torch.float32)
    keys = torch.full((count, parts, top_k), LOWEST_KEY, dtype=torch.int64, device=rows.device)
    target_logit = normed.new_full((count,), torch.nan, dtype=torch.float32)
    ahead = torch.full((count, parts), -vocabulary, dtype=torch.int32, device=rows.device)
    partial_statistics[(row_blocks, parts)](
        normed, weight, bias, target, log_sum_exp, mean, keys, target_logit, ahead,
        count, vocabulary, normed.shape[1], normed.stride(0), weight.stride(0), part_blocks * blocks[1],
        float(scale), float(softcap or 1.0),
        HAS_BIAS=bias is not None, HAS_TARGET=target is not None, HAS_SOFTCAP=softcap is not None,
        UPCAST=interpreting(), TOP_K=top_k, SLOTS=triton.next_power_of_2(top_k),
        BLOCK_ROWS=blocks[0], BLOCK_VOCABULARY=blocks[1], BLOCK_WIDTH=blocks[2], num_warps=8, enable_fp_fusion=True,
    )  # fmt: skip
    total, entropy = merge_parts(log_sum_exp, mean)
    top_ids, top_logits = candidates_of(keys.flatten(1).topk(top_k, -1).values)
    statistics = {"top_ids": top_ids, "top_logits": top_logits, "log_sum_exp": total, "entropy": entropy}
    rank = None if target is None else ahead.sum(-1)
    return {**statistics, "target_logit": None if target is None else target_logit, "target_rank": rank}
