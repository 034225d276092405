"""Keep the first tokens and a window of the newest, and count positions within the cache.

Paper
-----
Xiao et al., Efficient Streaming Language Models with Attention Sinks, 2023, arXiv 2309.17453.

Formula
-------
After T tokens, s sinks and a window w, keys 0 ... s - 1 and T - w ... T - 1 are held, e = T - w - s are gone. With
rotary positions R a sink's key at its place in the cache is, for the query at T, R(i + e) k_i in place of R(i) k_i.

Deviates
--------
The paper stores keys without rotation and rotates all of them anew at every step, by their places in the cache. Under
rotary positions only distances matter, so the same attention follows from leaving the window and the query where they
are in the text and rotating the few sinks forward by the number of tokens evicted, from a float32 copy, so that no
error adds up. Keys enter the cache already rotated, which costs nothing more. The prompt is read with full attention;
eviction begins after it. While a draft is verified, its tokens are read beside the full window.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Self

import torch
from pydantic import Field
from torch import Tensor

from workbench.engine import KeyValueCache, KeyValueState, Run
from workbench.engine.slots import EvictPolicy
from workbench.errors import SettingError
from workbench.models import Model
from workbench.models.device import numbers, read
from workbench.models.rotate import Rope, rotate
from workbench.settings import settings
from workbench.techniques._technique import Technique, register


@register
@settings
class StreamingLLM(Technique):
    """Attention sinks and a sliding window.

    Parameters
    ----------
    sinks : int
        First tokens of the text, which always stay; 0 is plain window attention.
    window : int
        Newest tokens that stay; a token reads them, the sinks and itself.

    Notes
    -----
    With ``context_tokens`` the question is read in one pass behind the window that the context left, and eviction goes
    on after it.

    Models with learned positions are refused: their positions are added to the residual stream before the first layer,
    and keys cannot be moved afterwards. A run still ends at the positions that the engine allows the model.
    """

    sinks: Annotated[int, Field(ge=0, le=64, description="first tokens, which stay")] = 4
    window: Annotated[int, Field(ge=1, le=1_000_000, description="newest tokens, which stay")] = 256

    slots = ("evict",)
    exact = False
    stepwise = True
    paper = "Xiao et al., Efficient Streaming Language Models with Attention Sinks, 2023, arXiv 2309.17453"

    def start(self, run: Run) -> _Stream:
        anatomy = run.model.anatomy
        if anatomy.family.rotary is None:
            raise SettingError(
                f"streaming_llm needs rotary positions, and {anatomy.family.title} learns a vector for each position: "
                "keys cannot be moved within the cache; take another cache technique or another model"
            )
        rotations = _Rotations(run.model, len(run.prompt))
        rotations.check(len(run.prompt) + run.max_new_tokens)
        return _Stream(self.sinks, self.window, rotations)

    @classmethod
    def neutral(cls) -> Self:
        return cls(window=1_000_000)

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return cls(sinks=2, window=8), cls(sinks=0, window=5)


@dataclass
class _Sinks:
    """Sinks of one layer as they came: keys [batch, kv_heads, sinks, head_dim] in float32, positions [1, sinks], and
    the last of these."""

    keys: Tensor
    positions: Tensor
    last: int


class _Stream(EvictPolicy):
    """Evicts the oldest tokens behind the sinks, and brings the sinks up to those that stay."""

    def __init__(self, sinks: int, window: int, rotations: _Rotations) -> None:
        self._sinks, self._window, self._rotations = sinks, window, rotations
        self._originals: dict[int, _Sinks] = {}

    def prefilled(self, layer: int, query: Tensor, cache: KeyValueState) -> None:
        held, most = cache.length, self._sinks + self._window
        if held + cache.reserve <= most + 1:
            return
        # No more room is needed than for one token beside the full cache.
        cache.reserve = max(1, most + 1 - held)
        self._remember(layer, cache)
        places = torch.arange(held, device=query.device)
        cache.keep(places if held <= most else torch.cat((places[: self._sinks], places[-self._window :])))
        if held > most:
            self._move(layer, cache, int(cache.positions[0, self._sinks]))

    def settled(self, cache: KeyValueCache) -> None:
        full = [
            (index, layer, excess)
            for index, layer in enumerate(cache.layers)
            if not layer.recurrent and (excess := layer.length - self._sinks - self._window) > 0
        ]
        oldest = [layer.positions[0, self._sinks :].topk(excess + 1, largest=False) for _, layer, excess in full]
        # All layers in one copy from the device.
        found = read(*(part for each in oldest for part in (each.indices, each.values))) if full else []
        for (index, layer, excess), places, positions in zip(full, found[::2], found[1::2]):
            self._remember(index, layer)
            layer.replace([self._sinks + place for place in places[:excess]])
            self._move(index, layer, positions[-1])

    def _remember(self, index: int, layer: KeyValueState) -> None:
        if index not in self._originals and layer.length >= self._sinks:
            keys, _, positions = layer.read(0, self._sinks)
            self._originals[index] = _Sinks(
                keys.to(torch.float32, copy=True), positions.clone(), int(positions[0, -1]) if self._sinks else -1
            )

    def _move(self, index: int, layer: KeyValueState, oldest: int) -> None:
        """Let the sinks stand directly before the position ``oldest`` of the window's first token."""
        if self._sinks:
            sinks = self._originals[index]
            ahead = oldest - 1 - sinks.last
            rope = self._rotations.forward(index, ahead)
            keys = None if rope is None else rotate(sinks.keys, rope)
            layer.rewrite(slice(self._sinks), keys, positions=sinks.positions + ahead)


class _Rotations:
    """Rotations of a model by a number of positions, with the frequencies of a text of ``length`` tokens; the factor
    that some tables multiply attention with is left out."""

    def __init__(self, model: Model, length: int) -> None:
        self._anatomy, self._length = model.anatomy, length
        self._kinds = [block.rope_kind for block in model.anatomy.blocks]
        self._factors = {kind: float(cosine.max()) for kind, (cosine, _) in self._tables(0).items()}
        self._known: tuple[int, dict[str, Rope]] = (0, self._tables(0))

    def forward(self, layer: int, count: int) -> Rope | None:
        """Cosine and signed sine, each [1, 1, rotary_dim] in float32, that move keys of ``layer`` by ``count``.

        None for a layer that does without positions.
        """
        if self._known[0] != count:
            self._known = count, self._tables(count)
        kind = self._kinds[layer]
        if kind is None:
            return None
        cosine, sine = self._known[1][kind]
        return cosine / self._factors[kind], sine / self._factors[kind]

    def check(self, last: int) -> None:
        """Raise SettingError unless rotating by one and by the rest is rotating by ``last``, as a text of that length
        rotates; one whose cache is computed anew on the way starts anew with it."""
        one, rest = (self._tables(count) for count in (1, last - 1))
        whole = self._tables(last, last if self._anatomy.switch is None else self._length)
        for kind, factor in self._factors.items():
            (cosine, sine), (more_cosine, more_sine) = one[kind], rest[kind]
            composed = cosine * more_cosine - sine * more_sine
            if float((composed - factor * whole[kind][0]).abs().max()) > 0.05 * factor**2:
                raise SettingError(
                    f"streaming_llm cannot move keys of {self._anatomy.family.title} within {last:,} tokens: its "
                    "rotary frequencies change with the length of the text; ask for a shorter text"
                )

    def _tables(self, position: int, length: int | None = None) -> dict[str, Rope]:
        place = numbers([position], self._anatomy.device)
        ropes = self._anatomy.rope(place, length or self._length, below=position + 1)
        return {kind: (cosine.float(), sine.float()) for kind, (cosine, sine) in ropes.items()}
