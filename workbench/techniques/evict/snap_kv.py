"""Keep the prompt's keys that its last queries looked at.

Paper
-----
Li et al., SnapKV: LLM Knows What You are Looking for Before Generation, 2024, arXiv 2404.14469.

Formula
-------
Of n keys in a layer, w in the window, a KV head with G query heads g scores the earlier ones

    s_j = (1 / G) sum_g sum_(i in window) softmax_j(scale q_(g,i) . k_j),    s'_j = pool(s_l, l = j - c ... j + c),

c = kernel // 2, and keeps the window and the max(ceil(keep n), w) - w keys of largest s'.

Deviates
--------
The paper chooses for each query head from keys repeated for it; here the query heads that share a KV head vote together
(mean), so that the cache really shrinks under grouped-query attention. The budget is a share of the prompt and includes
the window, not a fixed number; an average over the edge of the prompt divides by the keys that are there. Of a prompt
that was prefilled in chunks only the queries of the last chunk are at hand: if they are fewer than the window, they
vote alone. The default kernel is wider than the paper's: the prompt's end looks at where an answer begins, pooling has
to reach to where it ends, and the bundled model spends a token on every digit.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from workbench.engine import KeyValueState, Run
from workbench.engine.ledger import POLICY
from workbench.models.attention import Scoring
from workbench.settings import settings
from workbench.techniques._technique import Technique, register
from workbench.techniques.evict._prompt_eviction import PromptEviction


@register
@settings
class SnapKV(Technique):
    """Attention of the prompt's last queries, pooled over neighbours, ranks its earlier keys for every KV head.

    Parameters
    ----------
    keep : float
        Share of the prompt's keys that stays in every layer, the window included; 1 evicts nothing.
    window : int
        Last tokens of the prompt whose queries vote and whose keys always stay.
    kernel : int
        Neighbouring keys pooled, so that what stands beside a key that is looked at stays with it; 1 pools nothing. Of
        18 five-digit needles in 350 and 700 tokens, the question in the window, the bundled model at keep=0.5 completes
        4 at 7 and all at 15.
    pooling : {"avg", "max"}

    Notes
    -----
    The window is the prompt's end, as in the paper: with the question in it, what is kept is what the question asks
    for. With ``context_tokens`` it is the end of the context, as in kvpress, and a needle that nothing there looks at
    is lost.
    """

    keep: Annotated[float, Field(gt=0, le=1, description="share of the prompt's keys that stays")] = 0.5
    window: Annotated[int, Field(ge=1, le=256, description="last tokens, which vote and stay")] = 32
    kernel: Annotated[int, Field(ge=1, le=63, description="neighbouring keys pooled")] = 15
    pooling: Annotated[Literal["avg", "max"], Field(description="mean or maximum over neighbours")] = "avg"

    slots = ("evict",)
    exact = False
    paper = "Li et al., SnapKV: LLM Knows What You are Looking for Before Generation, 2024, arXiv 2404.14469"

    def start(self, run: Run) -> _LookedAt:
        return _LookedAt(self, run)

    @classmethod
    def neutral(cls) -> Self:
        return cls(keep=1.0)

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return cls(window=4, kernel=3), cls(keep=0.3, window=2, kernel=1, pooling="max")


class _LookedAt(PromptEviction):
    """Scores by attention."""

    def __init__(self, technique: SnapKV, run: Run) -> None:
        super().__init__(technique.keep, technique.window)
        self._kernel, self._pooling = technique.kernel, technique.pooling
        self._blocks, self._ledger = run.model.anatomy.blocks, run.ledger

    def scores(self, layer: int, query: Tensor, cache: KeyValueState, earlier: int) -> Tensor:
        block, query = self._blocks[layer], query[0, :, -self.window :]
        products = 2 * query.numel() * cache.length
        self._ledger.count(POLICY, products, cache.length * cache.entry_bytes / 2)
        with self._ledger.timed(POLICY):
            return self._pooled(window_attention(query, cache, block.scoring, block.window)[:, :earlier], earlier)

    def _pooled(self, received: Tensor, earlier: int) -> Tensor:
        pad = self._kernel // 2
        if self._pooling == "avg":
            pooled = F.avg_pool1d(received, self._kernel, stride=1, padding=pad, count_include_pad=False)
        else:
            pooled = F.max_pool1d(received, self._kernel, stride=1, padding=pad)
        # An even kernel gives one value more than there are keys.
        return pooled[:, :earlier]


def window_attention(query: Tensor, cache: KeyValueState, scoring: Scoring, window: int | None) -> Tensor:
    """Attention [kv_heads, entries] that every entry receives from the newest queries.

    Parameters
    ----------
    query : Tensor [heads, rows, head_dim]
        Queries of the ``rows`` newest entries, in order.
    cache : KeyValueState
    scoring : Scoring
    window : int or None
        Sliding window of the layer; what lies outside receives nothing.

    Returns
    -------
    Tensor
        float32, summed over queries and averaged over the query heads that share a KV head.
    """
    keys = cache.keys[0]
    rows, held = query.shape[1], cache.length
    grouped = query.unflatten(0, (keys.shape[0], -1)).flatten(1, 2)
    products = (grouped @ keys.transpose(1, 2)).unflatten(1, (-1, rows))
    hidden = torch.ones(rows, held, dtype=torch.bool, device=keys.device).triu(held - rows + 1)
    if window is not None:
        positions = cache.positions[0]
        hidden = hidden | (positions[held - rows :, None] - positions >= window)
    weights = scoring.weights(products.flatten(0, 1), hidden).unflatten(0, products.shape[:2])
    return weights.sum(2).mean(1)
