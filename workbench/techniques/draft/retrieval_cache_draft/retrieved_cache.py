"""A second decoder of the verifying model that reads only a few chunks of its cache.

Source
------
Sun et al., TriForce: Lossless Acceleration of Long Sequence Generation with Hierarchical Speculative Decoding, 2024,
arXiv 2404.11912.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from workbench.engine import Decoder, KeyValueCache, LayerCache
from workbench.engine.attention import attend
from workbench.engine.visibility import Visible
from workbench.models import Block, Model
from workbench.models.attention import Scoring


class RetrievedDecoder:
    """A decoder whose layer caches hold copies of the best chunks of another decoder's cache, and all that came since.

    Parameters
    ----------
    model : Model
        The verifying model.
    chunk : int
        Neighbouring entries that are ranked and copied together.
    budget : int
        Entries copied by every layer and KV head.
    reserve : int
        Room for the tokens that follow.

    Attributes
    ----------
    decoder : Decoder
        Its cache is the small one.
    retrievals : int
        How often chunks were chosen.
    """

    def __init__(self, model: Model, chunk: int, budget: int, reserve: int) -> None:
        self.decoder = Decoder(model, reserve, {"attention": self})
        self.retrievals = 0
        self._chunk, self._budget, self._reserve = chunk, budget, reserve
        self._source: KeyValueCache | None = None
        self._chosen_from: KeyValueCache | None = None
        self._copied: list[int] = []
        self._seen: list[tuple[int, int]] = []

    def fits(self, cache: KeyValueCache) -> bool:
        """Whether a cache can be this model's: the same layers, heads and widths."""
        blocks = self.decoder.anatomy.blocks
        return len(cache.layers) == len(blocks) and all(
            layer.length == 0 or layer.keys.shape[1::2] == (block.kv_heads, block.head_dim)
            for layer, block in zip(cache.layers, blocks)
        )

    def retrieve(self, cache: KeyValueCache) -> None:
        """Forget all and choose chunks of ``cache`` anew, layer by layer, in the next forward."""
        self.decoder.cache = KeyValueCache(self.decoder.model.layers, self._reserve)
        self.decoder.cache.length, self.decoder.cache.read_as = cache.length, cache.read_as
        self._source = self._chosen_from = cache
        self._copied = []
        self._seen = [(layer.length, layer.evictions) for layer in cache.layers]
        self.retrievals += 1

    @torch.inference_mode()
    def follow(self, cache: KeyValueCache) -> bool:
        """Take over what ``cache`` gained since the chunks were chosen, in place of this decoder's own approximation of
        it; False if it lost something, or is another, so that they must be chosen anew."""
        if (
            not self._copied
            or cache is not self._chosen_from
            or any(
                layer.evictions != evictions or layer.length < length
                for layer, (length, evictions) in zip(cache.layers, self._seen)
            )
        ):
            return False
        for own, layer, copied, (seen, _) in zip(self.decoder.cache.layers, cache.layers, self._copied, self._seen):
            own.crop(own.length - copied)
            if layer.length > seen:
                own.append(layer.keys[:, :, seen:], layer.values[:, :, seen:], layer.positions[:, seen:])
        self.decoder.cache.length = cache.length
        return True

    def forward(self, tokens: Sequence[int]) -> Tensor:
        """Logits [tokens, vocabulary] after each of a chain of tokens."""
        logits = self.decoder.forward(tokens, logits="all")
        if self._source is not None:
            self._copied = [layer.length - len(tokens) for layer in self.decoder.cache.layers]
            self._source = None
        return logits

    def keep(self, passed: int, kept: int) -> None:
        """Of the last ``passed`` tokens keep the first ``kept``."""
        self.decoder.cache.commit(passed, range(kept))

    def attend(
        self, layer: int, query: Tensor, cache: LayerCache, visible: Visible, scoring: Scoring
    ) -> tuple[Tensor, float] | None:
        """Slot ``attention`` of the decoder: with the first query of a layer choose what the layer will read."""
        if self._source is None:
            return None
        block, count, source = self.decoder.anatomy.blocks[layer], query.shape[2], self._source.layers[layer]
        keys, values, positions = cache.keys.clone(), cache.values.clone(), cache.positions[0].clone()
        cache.crop(count)
        heads = block.kv_heads
        if source.length:
            index = chosen_entries(query[0, :, 0], source, self._chunk, self._budget, block)
            gather = index[None, :, :, None].expand(-1, -1, -1, keys.shape[-1])
            stands = source.positions.expand(heads, -1).gather(1, index)
            cache.append(source.keys.gather(2, gather), source.values.gather(2, gather), stands[0])
            cache.mark_positions(stands)
            cache.rows = []  # none of these is the pass's own
            cache.append(keys, values, positions)
        else:
            cache.append(keys, values, positions)
            cache.mark_positions(positions.expand(heads, -1))
        return attend(query, cache.keys, cache.values, visible.mask(), scoring), visible.keys_read()


def chosen_entries(query: Tensor, cache: LayerCache, chunk: int, budget: int, block: Block) -> Tensor:
    """Entries [kv_heads, chosen] of a layer's cache that a query would look at, in order.

    Parameters
    ----------
    query : Tensor [heads, head_dim]
    cache : LayerCache
    chunk, budget : int
        The first chunk, where attention sinks stand, and the entries that fill no chunk at the end are always chosen;
        of the others those whose mean key has the largest product with the query, softmax over chunks, summed over the
        query heads that share a KV head.
    block : Block
        Of a layer with a sliding window only the newest entries count, and all of these are chosen.
    """
    keys, held = cache.keys[0], cache.length
    heads = keys.shape[0]
    chunks = held // chunk
    tail = held - chunks * chunk
    wanted = max(1, (budget - tail) // chunk)
    if block.window is not None or wanted >= chunks:
        first = 0 if block.window is None else max(0, held - block.window)
        return torch.arange(first, held, device=keys.device).expand(heads, -1)
    means = keys[:, : chunks * chunk].unflatten(1, (chunks, chunk)).mean(2, dtype=torch.float32)
    grouped = query.float().unflatten(0, (heads, -1))
    votes = block.scoring.scores(grouped @ means.transpose(1, 2)).softmax(-1).sum(1)
    votes[:, 0] = float("inf")
    best = votes.topk(wanted, -1, sorted=False).indices.sort(-1).values
    entries = best[:, :, None] * chunk + torch.arange(chunk, device=keys.device)
    newest = torch.arange(chunks * chunk, held, device=keys.device).expand(heads, -1)
    return torch.cat((entries.flatten(1), newest), 1)
