"""How few keys each attention head really reads, and where they stand.

Paper
-----
Keys needed for a share of the mass: Zhang et al., H2O, 2023, arXiv 2306.14048, and Ribar et al., SparQ Attention, 2023,
arXiv 2312.04985. Mass on the first tokens: Xiao et al., Efficient Streaming Language Models with Attention Sinks, 2023,
arXiv 2309.17453.

Deviates
--------
Attention is written out for a sample of the queries, evenly spaced, and not for all of them; set ``queries=None`` for
all. H2O counts keys above one hundredth of a row's largest weight; here a row's weights are sorted and the fewest keys
that hold the mass are counted, which needs no threshold.
"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
import torch
import xarray as xr
from pydantic import Field
from torch import Tensor

from workbench.errors import SettingError
from workbench.models import Model
from workbench.models.attention import attention_rows
from workbench.probes._probe import Probe, Reader, axis, register, sample
from workbench.settings import settings
from workbench.trace import variable

MASSES = (0.9, 0.95, 0.99)
MAP_BINS = 128
_CHUNK = 2**20  # attention weights looked at together: few enough to stay in the processor's cache
_SLACK = 1e-6  # rounding of a sum of weights


@register
@settings
class AttentionSparsity(Probe):
    """Sparsity and reach of every head, as means over the sampled queries.

    Parameters
    ----------
    queries : int or None
        Evenly spaced query positions whose attention is written out; None takes all.
    first : int
        How many tokens at the start count as first (sinks).
    recent : int
        How many tokens, the query's own included, count as recent.
    layer, head : int or None
        Whose map is kept; by default head 0 of the middle layer.

    Notes
    -----
    Writes ``keys_needed`` [keys] and ``keys_needed_share`` (of the keys visible to the query) for 90, 95 and 99 % of
    the mass, ``entropy`` [nats], ``first_share``, ``recent_share``, ``distance_histogram`` (share of the mass by
    distance; bins begin at 0, 1, 2, 4, 8, … and the last is open) and ``map``: the chosen head's weights, summed over
    the keys and averaged over the sampled queries of each bin, at most 128 x 128. Rows are reduced as they are made.
    In layers with a learned sink (GPT-OSS) a row's weights are first made to sum to one, and ``sink_share`` says what
    the sink took. All are exact for the sampled queries, and means over these; queries near the start see few keys, so
    that a short text has a larger ``keys_needed_share`` and a smaller ``entropy`` by that alone.
    """

    queries: Annotated[int, Field(ge=1, description="sampled query positions; all if none")] | None = 256
    first: Annotated[int, Field(ge=1, le=1024, description="tokens at the start that count as first")] = 4
    recent: Annotated[int, Field(ge=1, le=65536, description="tokens up to the query that count as recent")] = 64
    layer: Annotated[int, Field(ge=0, description="layer of the map; the middle one if none")] | None = None
    head: Annotated[int, Field(ge=0, description="head of the map; the first if none")] | None = None

    sites = ("query_key_value",)
    paper = "Zhang et al., H2O, 2023, arXiv 2306.14048; Xiao et al., Attention Sinks, 2023, arXiv 2309.17453"

    def start(self, model: Model, tokens: Tensor) -> _Reader:
        blocks = model.anatomy.blocks
        without = [block.index for block in blocks if block.mixer.recurrent]
        if without:
            raise SettingError(f"{self.name}: layers {without} of {model.name} have no attention to look at")
        layer = len(blocks) // 2 if self.layer is None else self.layer
        if layer >= len(blocks):
            raise SettingError(f"{self.name}: {model.name} has layers 0 … {len(blocks) - 1}; layer={layer} is none")
        head = self.head or 0
        if head >= blocks[layer].heads:
            raise SettingError(
                f"{self.name}: {model.name} has heads 0 … {blocks[layer].heads - 1}; head={head} is none"
            )
        return _Reader(self, model, len(tokens), layer, head)

    @classmethod
    def examples(cls) -> tuple[AttentionSparsity, ...]:
        return cls(), cls(queries=7, first=2, recent=4, layer=1, head=3)


class _Reader(Reader):
    def __init__(self, probe: AttentionSparsity, model: Model, tokens: int, layer: int, head: int) -> None:
        self._probe, self._blocks, self._chosen = probe, model.anatomy.blocks, (layer, head)
        self._rows = sample(tokens, probe.queries).to(model.device)
        self._edges = [0, *(2**power for power in range((tokens - 1).bit_length()))]
        shape = len(self._blocks), self._blocks[0].heads
        self._entropy, self._first, self._recent = np.zeros(shape), np.zeros(shape), np.zeros(shape)
        self._needed, self._share = np.zeros((*shape, len(MASSES))), np.zeros((*shape, len(MASSES)))
        self._sink = np.zeros(shape)
        self._histogram = np.zeros((*shape, len(self._edges)))
        self._key_bin = -(-tokens // MAP_BINS)
        self._query_bin = -(-len(self._rows) // MAP_BINS)
        bins = -(-len(self._rows) // self._query_bin), -(-tokens // self._key_bin)
        self._map = torch.zeros(bins, device=model.device)

    def see(self, site: str, layer: int, value: Any) -> None:
        query, key, _ = value
        block = self._blocks[layer]
        size = max(1, _CHUNK // (query.shape[1] * query.shape[2]))
        for start in range(0, len(self._rows), size):
            rows = self._rows[start : start + size]
            last = int(rows[-1]) + 1  # later keys are hidden from all of these queries
            weights = attention_rows(query[:, :, :last], key[:, :, :last], block.scoring, block.window, rows)[0]
            if block.scoring.sinks is not None:
                total = weights.sum(-1, keepdim=True)
                self._sink[layer] += (1 - total).sum((-1, -2)).double().cpu().numpy()
                weights = weights / total.clamp_min(torch.finfo(total.dtype).tiny)
            if layer == self._chosen[0]:
                self._draw(weights[self._chosen[1]], start)
            self._add(layer, weights, rows, block.window)

    def _add(self, layer: int, weights: Tensor, rows: Tensor, window: int | None) -> None:
        """Reduce weights [heads, rows, keys]; they are overwritten."""
        total = torch.special.entr(weights).sum((-1, -2))
        self._entropy[layer] += total.cpu().numpy()
        self._add_distances(layer, weights.cumsum(-1), rows)
        sums = _sorted(weights).cumsum(-1)
        limits = torch.tensor([1 - mass + _SLACK for mass in MASSES], device=weights.device)
        dropped = torch.searchsorted(sums, limits.expand(*sums.shape[:2], -1).contiguous(), right=True)
        needed = (sums.shape[-1] - dropped).double()
        visible = (rows + 1 if window is None else (rows + 1).clamp_max(window)).double()
        self._needed[layer] += needed.sum(1).cpu().numpy()
        self._share[layer] += (needed / visible[:, None]).sum(1).cpu().numpy()

    def _add_distances(self, layer: int, sums: Tensor, rows: Tensor) -> None:
        total = sums[..., -1]
        distances = torch.tensor([*self._edges[1:], self._probe.recent], device=rows.device)
        beyond = rows[:, None] - distances
        mass = sums.gather(-1, beyond.clamp_min(0).expand(len(sums), -1, -1))
        within = (total[..., None] - mass * (beyond >= 0)).double()
        self._recent[layer] += within[..., -1].sum(-1).cpu().numpy()
        self._first[layer] += sums[..., min(self._probe.first, sums.shape[-1]) - 1].double().sum(-1).cpu().numpy()
        edges = torch.cat((torch.zeros_like(within[..., :1]), within[..., :-1], total.double()[..., None]), -1)
        self._histogram[layer] += edges.diff(dim=-1).sum(1).cpu().numpy()

    def _draw(self, weights: Tensor, start: int) -> None:
        place = torch.arange(weights.shape[1], device=weights.device) // self._key_bin
        pooled = weights.new_zeros(len(weights), self._map.shape[1]).index_add_(1, place, weights)
        group = torch.arange(start, start + len(weights), device=weights.device) // self._query_bin
        self._map.index_add_(0, group, pooled)

    def finish(self) -> xr.Dataset:
        count = len(self._rows)
        sizes = torch.bincount(torch.arange(count) // self._query_bin).to(self._map.device)
        heads = "layer head"
        layer, head = self._chosen
        variables = {
            "keys_needed": variable(f"{heads} mass", self._needed / count, "keys", "keys that hold the mass"),
            "keys_needed_share": variable(f"{heads} mass", self._share / count, "1", "share of visible keys needed"),
            "entropy": variable(heads, self._entropy / count, "nats", "attention entropy"),
            "first_share": variable(heads, self._first / count, "1", f"mass on the first {self._probe.first} tokens"),
            "recent_share": variable(heads, self._recent / count, "1", f"mass on the last {self._probe.recent} tokens"),
            "distance_histogram": variable(f"{heads} distance_bin", self._histogram / count, "1", "mass by distance"),
            "map": variable(
                "query_bin key_bin", self._map / sizes[:, None], "probability", "attention", layer=layer, head=head
            ),
        }
        if any(block.scoring.sinks is not None for block in self._blocks):
            variables["sink_share"] = variable(heads, self._sink / count, "1", "mass that the learned sink took")
        coordinates = {
            **axis("layer", np.arange(len(self._blocks)), "layer", "layer"),
            **axis("head", np.arange(self._blocks[0].heads), "head", "head"),
            **axis("mass", np.array(MASSES), "1", "share of the attention mass"),
            **axis("distance_bin", np.array(self._edges), "tokens", "smallest distance of the bin"),
            **axis("query_bin", self._rows[:: self._query_bin], "tokens", "first query of the bin"),
            **axis("key_bin", np.arange(self._map.shape[1]) * self._key_bin, "tokens", "first key of the bin"),
        }
        return xr.Dataset(variables, coordinates, {"queries": count})


def _sorted(weights: Tensor) -> Tensor:
    """The last dimension in ascending order; ``weights`` may be overwritten."""
    if weights.device.type != "cpu":
        return weights.sort(-1).values
    weights.numpy().sort(-1)  # vectorised, several times faster than torch's sort on a CPU
    return weights
