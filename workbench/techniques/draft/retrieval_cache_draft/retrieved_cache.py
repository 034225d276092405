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

from workbench.engine import Decoder, KeyValueCache, KeyValueState, LayerCache
from workbench.engine.attention import attend, mean_keys
from workbench.engine.state import MakeMask
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
        self.decoder = Decoder(model, reserve)
        self.retrievals = 0
        self._chunk, self._budget, self._reserve = chunk, budget, reserve
        self._source: KeyValueCache | None = None
        self._seen: list[tuple[int, int]] = []

    def fits(self, cache: KeyValueCache) -> bool:
        """Whether a cache can be this model's: the same layers, heads and widths, and as many entries for each head."""
        blocks = self.decoder.anatomy.blocks
        return len(cache.layers) == len(blocks) and all(
            not layer.recurrent
            and layer.valid is None
            and (layer.length == 0 or layer.read(0, 1)[0].shape[1::2] == (block.kv_heads, block.head_dim))
            for layer, block in zip(cache.layers, blocks)
        )

    def retrieve(self, cache: KeyValueCache) -> None:
        """Forget all and choose chunks of ``cache`` anew, layer by layer, in the next forward."""

        def make(index: int) -> RetrievedLayer:
            block = self.decoder.anatomy.blocks[index]
            return RetrievedLayer(cache.layers[index], block, self._chunk, self._budget, self._reserve)

        self.decoder.cache = KeyValueCache(self.decoder.model.layers, self._reserve, make)
        self.decoder.cache.length, self.decoder.cache.read_as = cache.length, cache.read_as
        self._source = cache
        self._seen = [(layer.length, layer.evictions) for layer in cache.layers]
        self.retrievals += 1

    @torch.inference_mode()
    def follow(self, cache: KeyValueCache) -> bool:
        """Take over what ``cache`` gained since the chunks were chosen, in place of this decoder's own approximation of
        it; False if it lost something, or is another, so that they must be chosen anew."""
        if (
            self._source is not cache
            or any(layer.copied is None for layer in self.decoder.cache.layers)
            or any(
                layer.evictions != evictions or layer.length < length
                for layer, (length, evictions) in zip(cache.layers, self._seen)
            )
        ):
            return False
        for own, layer, (seen, _) in zip(self.decoder.cache.layers, cache.layers, self._seen):
            own.crop(own.length - own.copied)
            if layer.length > seen:
                own.append(*layer.read(seen, layer.length))
        self.decoder.cache.length = cache.length
        return True

    def forward(self, tokens: Sequence[int]) -> Tensor:
        """Logits [tokens, vocabulary] after each of a chain of tokens."""
        return self.decoder.forward(tokens, logits="all")

    def keep(self, passed: int, kept: int) -> None:
        """Of the last ``passed`` tokens keep the first ``kept``."""
        self.decoder.cache.commit(passed, range(kept))


class RetrievedLayer(LayerCache):
    """A layer's cache that the first query fills: with copies of the entries of another that it would look at most.

    Parameters
    ----------
    source : KeyValueState
        What is chosen from.
    block : Block
    chunk, budget : int
        See :func:`chosen_entries`.
    reserve : int

    Attributes
    ----------
    copied : int or None
        Entries that were copied, which stand first; None before the first query.
    """

    form = "retrieved"

    def __init__(self, source: KeyValueState, block: Block, chunk: int, budget: int, reserve: int) -> None:
        super().__init__(reserve)
        self._source: KeyValueState | None = source
        self._block, self._chunk, self._budget = block, chunk, budget
        self.copied: int | None = None

    def attend(self, query: Tensor, make_mask: MakeMask, scoring: Scoring) -> tuple[Tensor, float]:
        """Weighted values over what was chosen, and the keys that a query read."""
        if self._source is not None:
            self._retrieve(self._source, query[0, :, 0])
            self._source = None
        mask = make_mask()
        return attend(query, self.keys, self.values, mask, scoring), mean_keys(mask, self.length)

    def _retrieve(self, source: KeyValueState, query: Tensor) -> None:
        """Put what a query [heads, head_dim] chooses before the entries of its own pass."""
        keys, values, positions = self.keys.clone(), self.values.clone(), self.positions[0].clone()
        heads = self._block.kv_heads
        self.crop(self.length)
        if source.length:
            index = chosen_entries(query, source, self._chunk, self._budget, self._block)
            stands = source.positions.expand(heads, -1).gather(1, index)
            self.append(*source.gather(index), stands[0], rows=())
            self.mark_positions(stands)
        self.copied = self.length
        self.append(keys, values, positions)
        if not source.length:
            self.mark_positions(positions.expand(heads, -1))


def chosen_entries(query: Tensor, cache: KeyValueState, chunk: int, budget: int, block: Block) -> Tensor:
    """Entries [kv_heads, chosen] of a layer's cache that a query would look at, in order.

    Parameters
    ----------
    query : Tensor [heads, head_dim]
    cache : KeyValueState
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
