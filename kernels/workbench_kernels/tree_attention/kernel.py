"""The Triton kernels: each program reads one part of the cache for a block of queries, then the parts are merged.

A step has few queries and a long cache, so the cache is divided among programs to keep the device busy
(Flash-Decoding: Dao, Haziza, Massa and Sizov, 2023), each with a running maximum and sum (online softmax: Milakov and
Gimelshein, 2018, arXiv 1805.02867; FlashAttention: Dao et al., 2022, arXiv 2205.14135). The rows of a program are the
queries of all heads that share a KV head: row ``group * tokens + token``. Blocks that end before the tree take no mask
at all; those that reach it read one byte per row and drafted token.

Logarithms are to base 2, with the factor folded into the scale: the device has an exponential to base 2.
"""

import functools
import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from workbench_kernels.dispatch import interpreting


@triton.jit
def _fold_block(
    query, largest, total, weighted, keys_pointer, values_pointer, visible_pointer, row_tokens,
    start, held, tokens, key_stride, value_stride, scale,
    TAIL: tl.constexpr, UPCAST: tl.constexpr,
    HEAD_DIM: tl.constexpr, BLOCK_WIDTH: tl.constexpr, BLOCK_KEYS: tl.constexpr,
):  # fmt: skip
    """Take one block of keys into the running maximum, sum and weighted values; TAIL when it may need a mask."""
    places = tl.arange(0, BLOCK_KEYS)
    inner = tl.arange(0, BLOCK_WIDTH)
    key_mask, value_mask = (inner < HEAD_DIM)[:, None], (inner < HEAD_DIM)[None, :]
    if TAIL:
        inside = start + places < held
        key_mask, value_mask = key_mask & inside[None, :], value_mask & inside[:, None]
    # a long cache passes 2**31 elements: the start of the block in 64 bits, the way within it in 32
    key_block = keys_pointer + tl.cast(start, tl.int64) * key_stride
    value_block = values_pointer + tl.cast(start, tl.int64) * value_stride
    keys = tl.load(key_block + places[None, :] * key_stride + inner[:, None], mask=key_mask, other=0.0)
    if UPCAST:
        keys = keys.to(tl.float32)
    logits = tl.dot(query, keys, input_precision="ieee") * scale
    if TAIL:
        drafted = start + places - (held - tokens)
        known = (drafted >= 0) & inside
        mark_pointers = visible_pointer + row_tokens[:, None] * tokens + drafted[None, :]
        marks = tl.load(mark_pointers, mask=known[None, :], other=1)
        logits = tl.where((marks != 0) & inside[None, :], logits, float("-inf"))
    larger = tl.maximum(largest, tl.max(logits, 1))
    # a row that has seen nothing yet has minus infinity for its maximum, and no difference from that
    shift = tl.where(larger == float("-inf"), 0.0, larger)
    rescale = tl.exp2(largest - shift)
    weights = tl.exp2(logits - shift[:, None])
    total = total * rescale + tl.sum(weights, 1)
    values = tl.load(value_block + places[:, None] * value_stride + inner[None, :], mask=value_mask, other=0.0)
    if UPCAST:
        values = values.to(tl.float32)
    weighted = tl.dot(weights.to(values.dtype), values, weighted * rescale[:, None], input_precision="ieee")
    return larger, total, weighted


@triton.jit(do_not_specialize=["rows", "tokens", "held"])
def partial_attention(
    query_pointer, keys_pointer, values_pointer, visible_pointer, weighted_pointer, log_total_pointer,
    rows, tokens, held, kv_heads, part_keys, scale,
    query_batch_stride, query_head_stride, query_stride,
    key_batch_stride, key_head_stride, key_stride, value_batch_stride, value_head_stride, value_stride,
    UPCAST: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_KEYS: tl.constexpr,
):  # fmt: skip
    """Weighted values and log-sum-exp of one block of rows over one part of the cache, for one KV head."""
    part, parts = tl.program_id(1), tl.num_programs(1)
    pair = tl.program_id(2).to(tl.int64)
    batch, kv_head = pair // kv_heads, pair % kv_heads
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    row_valid = row < rows
    row_tokens = row % tokens
    inner = tl.arange(0, BLOCK_WIDTH)
    inside = row_valid[:, None] & (inner < HEAD_DIM)[None, :]
    heads = kv_head * (rows // tokens) + row // tokens
    row_offsets = batch * query_batch_stride + heads * query_head_stride + row_tokens * query_stride
    query = tl.load(query_pointer + row_offsets[:, None] + inner[None, :], mask=inside, other=0.0)
    if UPCAST:
        query = query.to(tl.float32)
    keys_pointer += batch * key_batch_stride + kv_head * key_head_stride
    values_pointer += batch * value_batch_stride + kv_head * value_head_stride
    largest = tl.full((BLOCK_ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_ROWS,), tl.float32)
    weighted = tl.zeros((BLOCK_ROWS, BLOCK_WIDTH), tl.float32)
    first, last = part * part_keys, tl.minimum((part + 1) * part_keys, held)
    open_blocks = tl.maximum(tl.minimum(last, held - tokens) - first, 0) // BLOCK_KEYS
    tail = first + open_blocks * BLOCK_KEYS
    for start in range(first, tail, BLOCK_KEYS):
        largest, total, weighted = _fold_block(
            query, largest, total, weighted, keys_pointer, values_pointer, visible_pointer, row_tokens,
            start, held, tokens, key_stride, value_stride, scale, False, UPCAST, HEAD_DIM, BLOCK_WIDTH, BLOCK_KEYS,
        )  # fmt: skip
    for start in range(tail, last, BLOCK_KEYS):
        largest, total, weighted = _fold_block(
            query, largest, total, weighted, keys_pointer, values_pointer, visible_pointer, row_tokens,
            start, held, tokens, key_stride, value_stride, scale, True, UPCAST, HEAD_DIM, BLOCK_WIDTH, BLOCK_KEYS,
        )  # fmt: skip
    seen = total > 0.0
    weighted = weighted / tl.where(seen, total, 1.0)[:, None]
    place = (pair * rows + row) * parts + part
    tl.store(weighted_pointer + place[:, None] * HEAD_DIM + inner[None, :], weighted, mask=inside)
    log_total = tl.where(seen, largest + tl.log2(tl.where(seen, total, 1.0)), float("-inf"))
    tl.store(log_total_pointer + place, log_total, mask=row_valid)


@triton.jit(do_not_specialize=["parts"])
def merge_parts(
    weighted_pointer, log_total_pointer, out_pointer, parts,
    HEAD_DIM: tl.constexpr, BLOCK_WIDTH: tl.constexpr, BLOCK_PARTS: tl.constexpr,
):  # fmt: skip
    """One row of the result out of its parts: their mean, weighted by the sums they stand for."""
    row = tl.program_id(0).to(tl.int64)
    inner = tl.arange(0, BLOCK_WIDTH)
    largest = tl.full((1,), float("-inf"), tl.float32)
    total = tl.zeros((1,), tl.float32)
    weighted = tl.zeros((BLOCK_WIDTH,), tl.float32)
    for start in range(0, parts, BLOCK_PARTS):
        part = start + tl.arange(0, BLOCK_PARTS)
        place = row * parts + part
        log_total = tl.load(log_total_pointer + place, mask=part < parts, other=float("-inf"))
        inside = (part < parts)[:, None] & (inner < HEAD_DIM)[None, :]
        values = tl.load(weighted_pointer + place[:, None] * HEAD_DIM + inner[None, :], mask=inside, other=0.0)
        larger = tl.maximum(largest, tl.max(log_total, 0))
        shift = tl.where(larger == float("-inf"), 0.0, larger)
        rescale = tl.exp2(largest - shift)
        weights = tl.exp2(log_total - shift)
        total = total * rescale + tl.sum(weights, 0)
        weighted = weighted * rescale + tl.sum(weights[:, None] * values, 0)
        largest = larger
    out = (weighted / total).to(out_pointer.dtype.element_ty)
    tl.store(out_pointer + row * HEAD_DIM + inner, out, mask=inner < HEAD_DIM)


def block_sizes(rows: int, head_dim: int, itemsize: int) -> tuple[int, int]:
    """Rows and keys per block: a tile of 16 KiB at most, so that three in flight of each kind fit any device."""
    width = max(16, triton.next_power_of_2(head_dim))
    return max(16, min(64, triton.next_power_of_2(rows))), max(16, min(64, 16384 // (width * itemsize)))


@functools.cache
def _busy(device: torch.device) -> int:
    """Programs that keep a device busy."""
    return 1 if interpreting() else 2 * torch.cuda.get_device_properties(device).multi_processor_count


def triton_attention(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    visible: Tensor,
    scale: float,
    blocks: tuple[int, int] | None = None,
    parts: int | None = None,
) -> Tensor:
    """The weighted values [batch, heads, tokens, head_dim] by the kernels.

    The arguments are those of `tree_attention`, without jaxtyping: its import hook decorates every function of a module
    that does so, and Triton cannot compile a decorated one. `visible` is uint8 [tokens, tokens], contiguous, 1 on its
    diagonal. `blocks` are powers of two from 16 on (rows, keys); `parts` divides the cache among programs; None takes
    `block_sizes`, and as many parts as keep the device busy.

    Raises
    ------
    ValueError
        If the tensors are float64 or `head_dim` is above 256.
    """
    batch, heads, tokens, head_dim = query.shape
    kv_heads, held = keys.shape[1], keys.shape[2]
    if query.dtype == torch.float64 or head_dim > 256:
        raise ValueError("The kernel has no float64 and no head_dim above 256; ask for backend 'torch' or 'reference'.")
    query, keys, values = (x if x.stride(3) == 1 else x.contiguous() for x in (query, keys, values))
    rows, pairs = heads // kv_heads * tokens, batch * kv_heads
    block_rows, block_keys = blocks or block_sizes(rows, head_dim, query.element_size())
    row_blocks, key_blocks = triton.cdiv(rows, block_rows), triton.cdiv(held, block_keys)
    if parts is None:
        parts = triton.cdiv(_busy(query.device), row_blocks * pairs)
    part_blocks = triton.cdiv(key_blocks, min(parts, key_blocks))
    parts = triton.cdiv(key_blocks, part_blocks)  # no part is empty
    count, width = pairs * rows * parts, max(16, triton.next_power_of_2(head_dim))
    memory = query.new_full((count * (head_dim + 1),), torch.nan, dtype=torch.float32)
    weighted, log_total = memory[: count * head_dim], memory[count * head_dim :]
    out = query.new_full(query.shape, torch.nan)
    partial_attention[(row_blocks, parts, pairs)](
        query, keys, values, visible, weighted, log_total,
        rows, tokens, held, kv_heads, part_blocks * block_keys, scale * math.log2(math.e),
        *query.stride()[:3], *keys.stride()[:3], *values.stride()[:3],
        UPCAST=interpreting(), HEAD_DIM=head_dim, BLOCK_WIDTH=width,
        BLOCK_ROWS=block_rows, BLOCK_KEYS=block_keys, num_warps=4,
    )  # fmt: skip
    merge_parts[(pairs * rows,)](
        weighted, log_total, out, parts, HEAD_DIM=head_dim, BLOCK_WIDTH=width, BLOCK_PARTS=16, num_warps=2
    )
    return out
