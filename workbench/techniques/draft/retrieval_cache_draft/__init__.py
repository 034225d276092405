"""Draft for a long context with the model itself over a few retrieved chunks of its cache.

Paper
-----
Sun et al., TriForce: Lossless Acceleration of Long Sequence Generation with Hierarchical Speculative Decoding, 2024,
arXiv 2404.11912. Three tiers: a small model over a short streaming cache drafts for the model over retrieved chunks,
which drafts for the model over the full cache. Both acceptances keep their target's distribution, so the whole does.

Formula
-------
Chunks C of the full cache, each with its mean key m_C, are ranked for a KV head by its query heads h,

    v_C = sum_h softmax_C(scale q_h . m_C);

read are the first chunk, the best (budget - tail) / chunk in all, and the tail, the newest entries that fill no chunk.

Deviates
--------
Chunks are ranked with the queries of the drafting pass itself, each layer's from what the layers below it retrieved, so
that retrieving needs no pass over the full cache; query heads that share a KV head vote together. The middle tier
retrieves anew after a number of tokens, the paper once for each prompt. The small model reads the text's first and
newest tokens as if they stood side by side; what falls out of its window does so many at a time, by reading the window
afresh. It is half of the model's own layers unless a trained one is named, and seldom right. Where a cache technique
evicts, chunks are those of what is left; while another model of a switch is in charge, nothing is drafted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Self

import torch
from pydantic import Field
from torch import Tensor

from workbench.engine import Draft, KeyValueCache, Run, Sampler, Verification
from workbench.engine.accept import accept
from workbench.engine.rotation import outgrown
from workbench.errors import SettingError
from workbench.models import Model
from workbench.models.device import numbers
from workbench.settings import outside, settings
from workbench.techniques._technique import register
from workbench.techniques.draft._drafter import Drafter, DraftTechnique
from workbench.techniques.draft._model_drafter import ModelDrafter, drafter_model
from workbench.techniques.draft.retrieval_cache_draft.retrieved_cache import RetrievedDecoder


@register
@settings
class RetrievalCacheDraft(DraftTechnique):
    """The model over retrieved chunks drafts for the model over everything, and a small model for both.

    Parameters
    ----------
    draft : int
        Tokens that the middle tier drafts at once; 0 drafts nothing.
    budget, chunk : int
        Entries of the cache that the middle tier reads in every layer, and how many of them are retrieved together.
    refresh : int
        Tokens after which the middle tier retrieves anew.
    model : str
        The small model, see :func:`~._model_drafter.drafter_model`; ``none`` leaves the middle tier to draft
        token by token.
    guess : int
        Tokens that the small model drafts at once.
    sinks, window : int
        First and newest tokens that the small model reads; at times up to twice as many of the newest.
    """

    draft: Annotated[int, Field(ge=0, le=32, description="tokens the middle tier drafts at once")] = 6
    budget: Annotated[int, Field(ge=2, le=65_536, description="cache entries the middle tier reads")] = 256
    chunk: Annotated[int, Field(ge=1, le=256, description="entries retrieved together")] = 8
    refresh: Annotated[int, Field(ge=1, le=4096, description="tokens between two retrievals")] = 8
    model: Annotated[str, outside("model", "small model: /layers, /share, a name, or none", min_length=1)] = "auto"
    guess: Annotated[int, Field(ge=1, le=16, description="tokens the small model drafts at once")] = 2
    sinks: Annotated[int, Field(ge=0, le=64, description="first tokens the small model reads")] = 4
    window: Annotated[int, Field(ge=1, le=4096, description="newest tokens the small model reads")] = 128

    paper = "Sun et al., TriForce: Hierarchical Speculative Decoding, 2024, arXiv 2404.11912"

    def drafter(self, run: Run) -> _Tiers:
        if self.budget < 2 * self.chunk:
            raise SettingError(f"a budget of {self.budget} holds no two chunks of {self.chunk}: take a larger budget")
        small = None
        if self.model != "none":
            small = _Streaming(drafter_model(run.model, self.model), self, run)
        return _Tiers(self, RetrievedDecoder(run.model, self.chunk, self.budget, 2 * self.refresh), small, run.sampler)

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return (
            cls(draft=4, budget=16, chunk=4, refresh=6, model="/2", guess=2, sinks=2, window=8),
            cls(draft=3, budget=64, chunk=8, model="none"),
        )

    @classmethod
    def smallest(cls) -> Self:
        return cls(draft=2, budget=16, chunk=4, refresh=6, model="/2", guess=1, sinks=2, window=8)


class _Tiers(Drafter):
    """The middle tier, the small one, and the cache that is retrieved from."""

    def __init__(
        self, technique: RetrievalCacheDraft, middle: RetrievedDecoder, small: _Streaming | None, sampler: Sampler
    ) -> None:
        self._settings, self.middle, self._small, self._sampler = technique, middle, small, sampler
        self._full: KeyValueCache | None = None
        self._since = 0

    def propose(self, tokens: Sequence[int], limit: int) -> Draft:
        length, full, middle = min(self._settings.draft, limit), self._full, self.middle
        if length < 1 or full is None or full.length != len(tokens) - 1:
            return Draft()
        middle.decoder.reset_counts()
        if self._since >= self._settings.refresh or not middle.follow(full):
            middle.retrieve(full)
            self._since = 0
        chain: list[int] = []
        rows: list[Tensor] = []
        flops = moved = 0
        while len(chain) < length:
            text = [*tokens, *chain]
            guess, room = Draft(), min(self._settings.guess, length - len(chain) - 1)
            if self._small is not None and room > 0:
                guess = self._small.guess(text, room)
            logits = middle.forward([text[-1], *guess.tokens])
            path, token = accept(guess, logits, self._sampler)
            middle.keep(1 + len(guess.tokens), 1 + len(path))
            chain += [*(guess.tokens[node] for node in path), token]
            rows.append(logits[: len(path) + 1])
            flops, moved = flops + guess.flops, moved + guess.bytes
        drawn, probabilities = numbers(chain, logits.device), torch.cat(rows)
        probabilities = (
            probabilities.float().softmax(-1) if self._sampler.greedy else self._sampler.distribution(probabilities)
        )
        return Draft(
            chain,
            probabilities=None if self._sampler.greedy else probabilities,
            flops=middle.decoder.flops + flops,
            bytes=middle.decoder.bytes + moved,
            confidence=probabilities.gather(1, drawn[:, None])[:, 0].tolist(),
        )

    def verified(self, verification: Verification) -> None:
        self._full = verification.cache if self.middle.fits(verification.cache) else None
        self._since += len(verification.tokens)


class _Streaming:
    """A small model over the first and the newest tokens of a text, drafts that may vanish included."""

    def __init__(self, model: Model, technique: RetrievalCacheDraft, run: Run) -> None:
        self._vocabulary, self._sampler = run.model.anatomy.vocabulary, run.sampler
        self._sinks, self._window = technique.sinks, technique.window
        most = technique.sinks + 2 * technique.window + technique.draft + technique.guess
        if min(most, len(run.prompt) + run.max_new_tokens - 1) > model.anatomy.positions:
            raise SettingError(
                f"{model.name} knows {model.anatomy.positions:,} positions, too few for a window of up to "
                f"{2 * technique.window:,} tokens: take a smaller window"
            )
        self._drafter = ModelDrafter(model, most)
        self._held: list[int] = []
        self._first = 0

    def guess(self, tokens: Sequence[int], length: int) -> Draft:
        """A chain of ``length`` tokens after ``tokens``."""
        drafter = self._drafter
        drafter.reset_counts()
        chain = drafter.chain(self._read(tokens), self._sampler, length, self._extend)
        probabilities = drafter.spread(chain.distributions, self._vocabulary)
        return Draft(chain.tokens, probabilities=probabilities, flops=drafter.flops, bytes=drafter.bytes)

    def _extend(self, tokens: list[int]) -> Tensor:
        self._held += tokens
        return self._drafter.decoder.forward(tokens)[0]

    def _read(self, tokens: Sequence[int]) -> Tensor:
        if not self._held or len(tokens) - self._first > 2 * self._window:
            self._first = max(self._sinks, len(tokens) - self._window)
        view = [*tokens[: self._sinks], *tokens[self._first :]]
        common = next(
            (place for place, (held, new) in enumerate(zip(self._held, view[:-1])) if held != new),
            min(len(self._held), len(view) - 1),
        )
        if outgrown(self._drafter.decoder, len(view)):
            common = 0
        common = self._drafter.decoder.cache.crop_to(common)
        self._held = view
        return self._drafter.decoder.forward(view[common:])[0]
