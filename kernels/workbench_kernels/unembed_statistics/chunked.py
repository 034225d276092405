"""The fast path in plain torch, made for the CPU.

Rows go in chunks whose logits fit in the last-level cache. A chunk's logits are then read tile by tile, each tile
small enough for the second-level cache, and every pass that follows finds its tile there:

- a softmax of the tile (one fused pass in torch) gives log-sum-exp and mean logit, see `combine`;
- the largest logit of each block of 64 tokens is kept. The best k tokens lie in the best k blocks, so the top-k looks
  at a few hundred candidates and not at the whole row;
- a target's rank is a count of larger logits. Tokens with an equal logit and a smaller id are ahead too: in blocks
  before the target's block "equal or larger" is "larger than the next float below", so ties cost no second pass.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench_kernels.unembed_statistics.combine import LOWEST_KEY, candidates_of, keys_of, merge_parts
from workbench_kernels.unembed_statistics.norm import Norm

BLOCK = 64
TIE_BLOCK = 512
CHUNK_ROWS = 256
CHUNK_BYTES = 32 * 2**20
TILE_VALUES = 2**20
PRODUCT_TOKENS = 4096


def _product(rows: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> Tensor:
    """``rows @ weight.T + bias`` by the faster library: for float32 on AMD, oneDNN does it in about half MKL's time.

    oneDNN rearranges a copy of the float32 weights it is given, hence the slices: the copy stays small.
    """
    if rows.device.type == "cpu" and rows.dtype == torch.float32 and torch.backends.mkldnn.is_available():
        for start in range(0, weight.shape[0], PRODUCT_TOKENS):
            piece = slice(start, start + PRODUCT_TOKENS)
            shift = None if bias is None else bias[piece]
            out[:, piece] = torch.ops.mkldnn._linear_pointwise(rows, weight[piece], shift, "none", [], "")
        return out
    torch.mm(rows, weight.T, out=out)
    return out if bias is None else out.add_(bias)


def _top(logits: Tensor, block_maxima: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """Ids and logits of the best `top_k` tokens per row, found through the best blocks."""
    vocabulary, blocks = logits.shape[1], block_maxima.shape[1]
    numbers = torch.arange(blocks, device=logits.device)
    best = keys_of(block_maxima, numbers.expand_as(block_maxima)).topk(min(top_k, blocks), -1).values
    ids = candidates_of(best)[0][:, :, None] * BLOCK + torch.arange(BLOCK, device=logits.device)
    ids = ids.flatten(1)
    keys = keys_of(logits.gather(1, ids.clamp_max(vocabulary - 1)), ids)
    keys = keys.masked_fill_(ids >= vocabulary, LOWEST_KEY)
    return candidates_of(keys.topk(top_k, -1).values)


def _ahead(tile: Tensor, start: int, target: Tensor, target_logit: Tensor, scratch: Tensor) -> Tensor:
    """How many tokens of a tile that begins at token `start` come before each row's target.

    Tokens that equal the target's logit and share its tie block are left to `_tied`.
    """
    below = torch.nextafter(target_logit, torch.full_like(target_logit, -torch.inf))
    blocks = torch.arange(start, start + tile.shape[1], TIE_BLOCK, device=tile.device) // TIE_BLOCK
    before = blocks < target[:, None] // TIE_BLOCK
    thresholds = torch.where(before, below[:, None], target_logit[:, None])
    whole = tile.shape[1] // TIE_BLOCK * TIE_BLOCK
    torch.gt(
        tile[:, :whole].unflatten(1, (-1, TIE_BLOCK)),
        thresholds[:, : whole // TIE_BLOCK, None],
        out=scratch[:, :whole].unflatten(1, (-1, TIE_BLOCK)),
    )
    if whole < tile.shape[1]:
        torch.gt(tile[:, whole:], thresholds[:, -1:], out=scratch[:, whole:])
    return scratch.sum(-1).long()


def _tied(logits: Tensor, target: Tensor) -> Tensor:
    """How many tokens before the target in its own tie block have exactly its logit."""
    first = target // TIE_BLOCK * TIE_BLOCK
    ids = first[:, None] + torch.arange(TIE_BLOCK, device=logits.device)
    equal = logits.gather(1, ids.clamp_max(logits.shape[1] - 1)) == logits.gather(1, target[:, None])
    return (equal & (ids < target[:, None])).sum(-1)


def _tile_width(rows: int, vocabulary: int) -> int:
    """Tokens per tile: as even a division of the vocabulary as tie blocks allow."""
    tiles = -(-vocabulary * rows // TILE_VALUES)
    return -(-vocabulary // (tiles * TIE_BLOCK)) * TIE_BLOCK


def _chunk(logits: Tensor, target: Tensor | None, top_k: int, memory: Tensor) -> dict[str, Tensor]:
    """Every statistic of a chunk of rows whose logits are at hand; `memory` has room for two tiles in float32."""
    rows, vocabulary = logits.shape
    width = memory.shape[1] // rows // TIE_BLOCK * TIE_BLOCK
    tile_memory, scratch_memory = memory
    maxima, sums, means = [], [], []
    if target is not None:
        target_logit = logits.gather(1, target[:, None])[:, 0].float()
        target_rank = _tied(logits, target)
    for start in range(0, vocabulary, width):
        piece = logits[:, start : start + width]
        tile = tile_memory[: piece.numel()].view(piece.shape).copy_(piece)
        scratch = scratch_memory[: piece.numel()].view(piece.shape)
        whole = piece.shape[1] // BLOCK * BLOCK
        tops = [tile[:, :whole].unflatten(1, (-1, BLOCK)).amax(-1)] if whole else []
        if whole < piece.shape[1]:
            tops.append(tile[:, whole:].amax(-1, keepdim=True))
        maxima += tops
        if target is not None:
            target_rank += _ahead(tile, start, target, target_logit, scratch)
        torch.softmax(tile, -1, out=scratch)
        # the largest probability of the tile is 1 / sum(exp(logit - largest logit))
        sums.append(torch.cat(tops, -1).amax(-1) - scratch.amax(-1).log())
        means.append(scratch.mul_(tile).sum(-1))
    log_sum_exp, entropy = merge_parts(torch.stack(sums, -1), torch.stack(means, -1))
    top_ids, top_logits = _top(logits, torch.cat(maxima, -1), top_k)
    statistics = {"top_ids": top_ids, "top_logits": top_logits, "log_sum_exp": log_sum_exp, "entropy": entropy}
    return statistics if target is None else {**statistics, "target_logit": target_logit, "target_rank": target_rank}


def chunked_statistics(
    rows: Float[Tensor, "rows width"],
    weight: Float[Tensor, "vocabulary width"],
    norm: Norm,
    bias: Float[Tensor, " vocabulary"] | None,
    scale: float,
    softcap: float | None,
    target: Int[Tensor, " rows"] | None,
    top_k: int,
) -> dict[str, Tensor | None]:
    """All statistics by chunks of rows; logits have the dtype of `weight`, as the model's own would.

    Returns
    -------
    dict
        The fields of `UnembedStatistics`, float32 and int64.
    """
    count, vocabulary = rows.shape[0], weight.shape[0]
    step = max(1, min(count, CHUNK_ROWS, CHUNK_BYTES // (vocabulary * weight.element_size())))
    # one buffer for all chunks: freed and taken anew, the allocator may hold two of them
    buffer = weight.new_empty(step, vocabulary)
    memory = weight.new_empty(2, step * _tile_width(step, vocabulary), dtype=torch.float32)
    parts: list[dict[str, Tensor]] = []
    for start in range(0, count, step):
        normed = norm(rows[start : start + step], weight.dtype)
        logits = _product(normed, weight, bias, buffer[: len(normed)])
        if scale != 1.0:
            logits.mul_(scale)
        if softcap is not None:
            logits.div_(softcap).tanh_().mul_(softcap)
        parts.append(_chunk(logits, None if target is None else target[start : start + step], top_k, memory))
    fields = ("top_ids", "top_logits", "log_sum_exp", "entropy", "target_logit", "target_rank")
    return {name: torch.cat([part[name] for part in parts]) if name in parts[0] else None for name in fields}
