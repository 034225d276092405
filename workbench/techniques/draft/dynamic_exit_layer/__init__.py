"""Self-speculation whose exit layer and draft length follow what every exit would have had accepted of late.

Paper
-----
Entezari Zarch et al., DEL: Context-Aware Dynamic Exit Layer for Efficient Self-Speculative Decoding, 2025,
arXiv 2504.05598.

Source
------
github.com/hoenza/DEL

Formula
-------
After a verification every candidate layer E reads its streams of the last token and of the accepted ones, which were
computed anyway: its *shadow tokens*. a(E) is the share that equals what the model said, over all rounds, a round
weighing ``decay`` times the one after it. The next round takes the exit E and the length d with the most tokens for
each layer that runs:

    TPL(E, d) = (1 + a + ... + a^d) / (d (E + h) + L + h)

and ends where the exit's highest probability falls below its threshold, halfway between the mean confidence of its
shadow tokens that were right and of those that were wrong.

Deviates
--------
The paper counts layers alone, h = 0 (``count_head=False``); h is the unembedding in layers, which outweighs several of
a small model's. d may be 0: where no exit pays, nothing is drafted. Shadow tokens are read of every ``stride``-th layer
and in every ``every``-th round, since they cost an unembedding, and the more seldom the longer nothing was drafted; the
paper reads all layers in all rounds. Before the first round a(E) is what the lens' card says, or E / L, and weighs as
much as one token. Halfway, and how rounds are weighed, are this project's reading of the paper. When sampling, a shadow
token counts as the chance that a token drawn from its exit is accepted, sum(min(p, q)). The model is not trained for
early exits, see :class:`~workbench.techniques.SelfSpeculative`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Self

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from workbench.engine import Decoder, Draft, Run, Verification
from workbench.engine.block_cost import block_cost
from workbench.engine.draft import Look
from workbench.engine.ledger import DRAFT
from workbench.engine.passes import Pass
from workbench.errors import SettingError
from workbench.models import Model
from workbench.models.device import numbers, read
from workbench.parts.exits import Lens, LensHead, LensName, Vocabulary, load_lens
from workbench.settings import settings
from workbench.techniques._technique import register
from workbench.techniques.draft._drafter import Drafter, DraftTechnique
from workbench.techniques.draft._early_exit import EarlyExit
from workbench.techniques.draft.dynamic_exit_layer.shadows import Shadows

_SELDOM = 16  # times ``every`` rounds, where nothing pays


@register
@settings
class DynamicExitLayer(DraftTechnique):
    """Self-speculation that picks exit layer and draft length every round.

    Parameters
    ----------
    draft : int
        Most tokens drafted at once; 0 drafts nothing.
    stride : int
        Every so-manieth layer is a candidate.
    every : int
        Shadow tokens are read every so many rounds, and where nothing pays after twice as many each time.
    decay : float
        What a round weighs once another has come.
    confident : bool
        Whether a draft ends where its exit is not sure.
    count_head : bool
        Whether an unembedding counts as the layers that it costs as much as.
    lens, vocabulary
        See :class:`workbench.techniques.SelfSpeculative`.
    """

    draft: Annotated[int, Field(ge=0, le=32, description="most tokens drafted at once")] = 8
    stride: Annotated[int, Field(ge=1, le=100, description="layers from one candidate to the next")] = 3
    every: Annotated[int, Field(ge=1, le=100, description="rounds from one look at all candidates to the next")] = 2
    decay: Annotated[float, Field(gt=0, le=1, description="what a round weighs once another has come")] = 0.95
    confident: Annotated[bool, Field(description="end a draft where its exit is not sure")] = True
    count_head: Annotated[bool, Field(description="count the unembedding among the layers")] = True
    lens: LensName = "bundled"
    vocabulary: Vocabulary = 8192

    segments = True
    paper = "Entezari Zarch et al., DEL: Context-Aware Dynamic Exit Layer, 2025, arXiv 2504.05598"

    def drafter(self, run: Run) -> _Dynamic:
        return _Dynamic(self, load_lens(run.model, self.lens), run)

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return (
            cls(stride=1, count_head=False, every=1, lens="logit"),
            cls(stride=2, draft=4, lens="untrained", vocabulary=50, count_head=False),
        )

    @classmethod
    def smallest(cls) -> Self:
        return cls(draft=2, stride=2, every=1, confident=False, count_head=False, lens="logit")


def cost_of_head(model: Model, head: LensHead) -> float:
    """Blocks that read as many weights as a head does for one token."""
    blocks = model.anatomy.blocks
    read = [block_cost(block).bytes(1, 0, 0 if block.router is None else block.router.chosen) for block in blocks]
    return head.bytes(1) * len(read) / sum(read)


class _Dynamic(Drafter):
    def __init__(self, technique: DynamicExitLayer, lens: Lens, run: Run) -> None:
        model, layers = run.model, run.model.layers
        candidates = list(range(technique.stride, layers, technique.stride))
        if not candidates:
            raise SettingError(f"stride={technique.stride} leaves no exit in {layers} layers: take 1 … {layers - 1}")
        self._model, self._sampler, self._lens = model, run.sampler, lens
        self._exit = EarlyExit(run, lens, technique.vocabulary)
        self._head = lens.head(lens.last, technique.vocabulary)
        measured = None if lens.acceptance is None else lens.acceptance[:, 0].tolist()
        share = measured if measured and any(measured) else [layer / layers for layer in range(layers)]
        believed = [share[layer] for layer in candidates]
        head = cost_of_head(model, self._head) if technique.count_head else 0.0
        self.shadows = Shadows(candidates, believed, technique.decay, layers, head, technique.draft)
        self._every = self._interval = technique.every
        self._left = 0  # rounds until shadow tokens are read again
        self._confident = technique.confident
        self._decoder: Decoder | None = None
        self._streams: dict[int, list[Tensor]] = {}

    def propose(self, tokens: Sequence[int], limit: int) -> Draft:
        decoder, self._streams = self._decoder, {}
        if limit < 1 or decoder is None or decoder.cache.length != len(tokens) - 1:
            return Draft()
        place, length = self.shadows.choose()
        layer, length = self.shadows.layers[place], min(length, limit)
        looks = self._looks() if self._left == 0 else ()
        if length:
            self._interval = self._every
        elif looks:
            self._interval = min(2 * self._interval, _SELDOM * self._every)
        self._left = min(self._left or self._interval, self._interval) - 1
        if not length:
            return Draft(looks=looks)
        below, above = looks[:place], looks[place:]
        threshold = self.shadows.thresholds[place] if self._confident else 0.0
        opened = decoder.open(tokens[-1:])
        draft = self._exit.draft(opened, layer, length, lambda chance: chance < threshold, below)
        draft.looks = above
        return draft

    def verified(self, verification: Verification) -> None:
        decoder = verification.decoder
        self._decoder = decoder if decoder is not None and decoder.model is self._model else None
        streams, count = self._streams, 1 + len(verification.path)
        self._streams = {}
        seen = [torch.cat(streams.get(layer, []) or [verification.hidden[:0]])[:count] for layer in self.shadows.layers]
        if self._decoder is not None and all(len(each) == count for each in seen):
            self._read(self._decoder, verification, seen, count)

    def _looks(self) -> tuple[Look, ...]:
        def look(layer: int) -> Look:
            def see(opened: Pass) -> None:
                held = self._streams.setdefault(layer, [])
                rows = [row for row in opened.rows if row >= 0]
                first = sum(map(len, held))
                # A policy of the slot depth may have let rows leave, or let earlier tokens join.
                if opened.stopped is None and rows == list(range(first, first + len(rows))):
                    held.append(opened.x[0, -len(rows) :])

            return Look(layer, see)

        return tuple(look(layer) for layer in self.shadows.layers)

    @torch.inference_mode()
    def _read(self, decoder: Decoder, verification: Verification, streams: Sequence[Tensor], count: int) -> None:
        """Learn what the exits say of the streams [count, width] of the last token and the accepted ones."""
        lens, head, layers = self._lens, self._head, self.shadows.layers
        # One product for all of them, so that the unembedding is read once.
        logits = head.read(torch.cat([lens.stream(x, layer - 1) for x, layer in zip(streams, layers, strict=True)]))
        decoder.ledger.count(DRAFT, head.flops(len(logits)), head.bytes(len(logits)))
        for layer in layers:
            decoder.ledger.count(DRAFT, lens.flops(layer - 1, count), lens.bytes(layer - 1, count))
        top, place = logits.float().max(-1)
        confidence = (top - logits.float().logsumexp(-1)).exp().view(-1, count)
        if self._sampler.greedy:
            tokens = place if head.vocabulary is None else head.vocabulary[place]
            agreed = (tokens.view(-1, count) == numbers(verification.tokens, tokens.device)).double()
        else:
            drawn = self._exit.spread(self._sampler.distribution(logits), head).unflatten(0, (-1, count))
            # Of a chain, the rows of the accepted tokens are the first.
            model = self._sampler.distribution(verification.logits[:count])
            agreed = torch.minimum(drawn, model).sum(-1).double()
        self.shadows.learn(*map(np.asarray, read(agreed, confidence.double())))
