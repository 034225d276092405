"""Read only the tokens that the heads of a layer vote for.

Paper
-----
Wu et al., TokenSelect: Efficient Long-Context Inference and Length Extrapolation for LLMs via Dynamic Token-Level KV
Cache Selection, 2024, arXiv 2411.02886.

Formula
-------
A layer's query rows q_h (h a query head) score the held keys k_j of their KV head; with sinks and newest keys left out

    v_j = sum_h softmax_j(scale q_h . k_j),    read = sinks + top-k of v + newest.

A choice made by the query c (all heads side by side, the mean of rows) is used again for q while

    cos(q, c) > threshold.

Deviates
--------
The prompt is read in full; selection begins with the first generated token. There is no paged kernel: the chosen keys
and values are gathered, which at short contexts takes longer than reading all of them. A choice is dropped as soon as
as many tokens follow it as it holds, and what follows it is read in full; tokens drafted together vote together.
Where an eviction left other tokens to every KV head, the query heads of each KV head vote by themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Self

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from workbench.engine import KeyValueState, Run
from workbench.engine.attention import attend, mean_keys
from workbench.engine.ledger import MODEL, POLICY
from workbench.engine.slots import AttentionPolicy
from workbench.engine.visibility import Visible
from workbench.models.attention import Scoring
from workbench.settings import settings
from workbench.techniques._technique import Technique, register


@register
@settings
class TokenSelect(Technique):
    """Per-head soft vote over query-key products, reused while consecutive queries stay similar.

    Parameters
    ----------
    k : int
        Tokens chosen in every layer beside the first and the newest.
    sinks : int
        First tokens of the text, which are always read.
    recent : int
        Newest tokens, which are always read.
    threshold : float
        A choice is reused while the cosine similarity between the query of the layer, all heads side by side, and the
        query that chose exceeds this; 1 chooses anew for every token.

    Notes
    -----
    A key that is only voted on counts as half a key read: it is multiplied with the query, its value is not touched. In
    FLOPs and bytes that half is the policy's.
    """

    k: Annotated[int, Field(ge=1, le=1_000_000, description="tokens chosen by the vote")] = 256
    sinks: Annotated[int, Field(ge=0, le=512, description="first tokens, always read")] = 4
    recent: Annotated[int, Field(ge=1, le=4096, description="newest tokens, always read")] = 64
    threshold: Annotated[float, Field(ge=-1, le=1, description="query similarity that reuses a choice")] = 0.9

    slots = ("attention",)
    exact = False
    stepwise = True
    paper = "Wu et al., TokenSelect: Dynamic Token-Level KV Cache Selection, 2024, arXiv 2411.02886"

    def start(self, run: Run) -> _Selector:
        return _Selector(self, run)

    @classmethod
    def neutral(cls) -> Self:
        return cls(k=1_000_000)

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return cls(k=6, sinks=2, recent=4), cls(k=3, sinks=0, recent=2, threshold=1.0)


@dataclass
class _Choice:
    """What one vote chose.

    Attributes
    ----------
    query : Tensor [heads * head_dim]
        The query that chose; the mean of several.
    places : int Tensor [1 or kv_heads, chosen]
        Entries of the cache below ``start``; one row if all heads read the same.
    start : int
        Entries that stood in the cache before the vote's own tokens; all from there on are read.
    evictions : int
        Of the cache at the time; places mean nothing after another one.
    """

    query: Tensor
    places: Tensor
    start: int
    evictions: int


class _Selector(AttentionPolicy):
    """The choice of every layer.

    Attributes
    ----------
    votes, reuses : int
        How often a layer chose anew, and how often it did not.
    """

    def __init__(self, technique: TokenSelect, run: Run) -> None:
        self._settings, self._prompt, self._blocks = technique, len(run.prompt), run.model.anatomy.blocks
        self._ledger = run.ledger
        self._choices: dict[int, _Choice] = {}
        self.votes = self.reuses = 0

    def attend(
        self, layer: int, query: Tensor, cache: KeyValueState, visible: Visible, scoring: Scoring
    ) -> tuple[Tensor, float] | None:
        start = cache.length - query.shape[2]
        enough = self._settings.k + self._settings.sinks + self._settings.recent
        window = self._blocks[layer].window
        if start <= enough or (window is not None and window <= enough):
            return None
        position = start if cache.contiguous else int(cache.positions[0, start])
        if position < self._prompt:
            return None
        mask = visible.mask()
        asked = query.mean(2).flatten().float()
        choice, voted = self._choices.get(layer), 0.0
        if choice is None or not self._holds(choice, asked, cache, start):
            # Of a contiguous cache the sliding window is a slice.
            first = max(0, start - window + 1) if window is not None and cache.contiguous else 0
            with self._ledger.timed(POLICY):
                places, voted = self._vote(query, cache, mask, scoring, range(first, start), position)
            self._count_vote(query, cache, voted)
            choice = self._choices[layer] = _Choice(asked, places, start, cache.evictions)
            self.votes += 1
        else:
            self.reuses += 1
        newest = torch.arange(choice.start, cache.length, device=query.device)
        places = torch.cat((choice.places, newest.expand(choice.places.shape[0], -1)), 1)
        keys, values, mask = _gather(cache, mask, places)
        return attend(query, keys, values, mask, scoring), mean_keys(mask, keys.shape[2]) + voted / 2

    def _holds(self, choice: _Choice, asked: Tensor, cache: KeyValueState, start: int) -> bool:
        return (
            choice.evictions == cache.evictions
            and 0 <= start - choice.start <= self._settings.k
            and float(F.cosine_similarity(asked, choice.query, 0)) > self._settings.threshold
        )

    def _count_vote(self, query: Tensor, cache: KeyValueState, voted: float) -> None:
        """Put the vote down to the policy: as half a key of those that are read, it would be the model's."""
        flops = 2 * query.shape[1] * query.shape[2] * query.shape[3] * voted
        moved = cache.keys.shape[1] * query.shape[3] * query.element_size() * voted
        self._ledger.count(POLICY, flops, moved)
        self._ledger.count(MODEL, -int(flops), -int(moved))

    def _vote(
        self, query: Tensor, cache: KeyValueState, mask: Tensor | None, scoring: Scoring, among: range, position: int
    ) -> tuple[Tensor, float]:
        """Places [1 or kv_heads, chosen] of ``among``, and how many entries were voted on; new tokens begin at
        ``position`` of the text."""
        stretch = slice(among.start, among.stop)
        keys, positions = cache.keys[0, :, stretch], cache.positions[:, stretch]
        always = (positions < self._settings.sinks) | (positions >= position - self._settings.recent)
        grouped = query[0].unflatten(0, (keys.shape[0], -1))
        products = (grouped.flatten(1, 2) @ keys.transpose(1, 2)).unflatten(1, grouped.shape[1:3])
        hidden = always[:, None]
        if mask is not None:
            hidden = hidden | ~mask[..., stretch]
        # A head that sees none of them has no vote.
        hidden = hidden[:, None].expand(products.shape).flatten(0, 1)
        weights = scoring.weights(products.flatten(0, 1), hidden).nan_to_num_(0.0)
        votes = weights.unflatten(0, products.shape[:2]).sum((1, 2))
        if positions.shape[0] == 1:
            votes = votes.sum(0, keepdim=True)
        votes.masked_fill_(always, float("inf"))
        certain = always.sum(-1).tolist() if not cache.contiguous else [self._certain(among, position)]
        count = min(len(among), self._settings.k + max(certain))
        chosen = votes.topk(count, -1, sorted=False).indices + among.start
        return chosen, len(among) - sum(certain) / len(certain)

    def _certain(self, among: range, position: int) -> int:
        """How many positions of ``among`` have no need of a vote, where every entry stands at its own."""
        sinks, recent = self._settings.sinks, position - self._settings.recent
        return len(among) - len(range(max(among.start, sinks), min(among.stop, recent)))


def _gather(cache: KeyValueState, mask: Tensor | None, places: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Keys, values and mask at ``places`` [1 or kv_heads, chosen]."""
    if places.shape[0] == 1:
        return *cache.gather(places), None if mask is None else mask.index_select(-1, places[0])
    if mask is not None:
        rows = mask if mask.dim() == 3 else mask.expand(places.shape[0], -1, -1)
        mask = rows.gather(2, places[:, None].expand(-1, rows.shape[1], -1))
    return *cache.gather(places), mask
