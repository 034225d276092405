"""Contiguous tokens that the model foresees with confidence are decoded in one step, unverified.

Paper
-----
Sun et al., Decoding at the Speed of Thought: Harnessing Parallel Decoding of Lexical Units for LLMs, 2024, arXiv
2405.15208.

Formula
-------
Padding row k after the text is ``E_k + B_k SiLU(A norm(x))``, x the last token's embedding, and its distribution p_k
says the token k + 1 on. A unit is the longest run of k = 1, 2, ... with max p_k >= ``alpha``.

Deviates
--------
The paper trains the whole model to speak at padding positions; here the model is frozen and the padding embeddings with
a low-rank map from the last token are trained (see :mod:`workbench.training.lexical_units`), which foresees less. Of
the paper's control of repetitions what is kept is that a unit ends before a token that repeats the one before it. The
tokens of a unit are the most probable ones also where the rest is sampled.

Notes
-----
One forward serves a unit: it takes the unit's tokens into the cache, says the token after them, and its padding rows
say what follows that. What is lost lies in the acceptance: teacher-forced measures, which leave drafts out, do not see
it; texts and scores do. On 8 mixed prompts of 48 tokens, bundled model in bfloat16: at ``alpha`` 0.3, 0.5 and 0.7 it
took 1.52, 1.21 and 1.09 tokens for each forward, and the text was less likely by 0.79, 0.33 and 0.20 nats a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Self

from pydantic import Field
from torch import Tensor

from workbench.engine import Draft, Lookahead, Run, Sampler, Verification
from workbench.engine.slots import AcceptPolicy
from workbench.errors import ArtifactError
from workbench.models import Model
from workbench.models.device import numbers, read
from workbench.parts.loading import part_tensors
from workbench.parts.lookahead.base import position_shift
from workbench.parts.lookahead.padding import Padding
from workbench.settings import outside, settings
from workbench.techniques._technique import Technique, register
from workbench.techniques.draft._drafter import Drafter


@register
@settings
class LexicalUnits(Technique):
    """Tokens said at padding positions are taken as they are while their probability reaches a threshold.

    Parameters
    ----------
    alpha : float
        Probability from which a token belongs to the unit; the first one that stays below ends it. Lower is faster and
        further from the model's own text.
    length : int
        Most tokens of a unit after its first, which the model says as ever; 0 makes every unit a single token.
    weights : str
        ``bundled``, ``untrained``, or the path of a ``.safetensors`` file.
    """

    alpha: Annotated[float, Field(gt=0, le=1, description="probability from which a token belongs to the unit")] = 0.5
    length: Annotated[int, Field(ge=0, le=8, description="most tokens of a unit after its first")] = 3
    weights: Annotated[str, outside("part", "padding: bundled, untrained, or a file", min_length=1)] = "bundled"

    slots = ("draft", "accept")
    exact = False
    stepwise = True
    paper = "Sun et al., Decoding at the Speed of Thought (Lexical Unit Decoding), 2024, arXiv 2405.15208"

    def start(self, run: Run) -> _Units:
        return _Units(self, None if self.length == 0 else self._part(run.model), run)

    @classmethod
    def neutral(cls) -> Self:
        return cls(length=0)

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return cls(weights="untrained", alpha=0.3, length=2), cls(weights="untrained", alpha=0.05)

    def _part(self, model: Model) -> Padding:
        width = model.anatomy.width
        tensors = part_tensors(self.name, model, self.weights, lambda: Padding.untrained(model, self.length))
        part = Padding.of(tensors)
        if part.width != width:
            raise ArtifactError(f"padding embeddings of width {part.width} do not fit {model.name}, which has {width}")
        return part.requires_grad_(False)


class _Units(Drafter, AcceptPolicy):
    """The unit to come, and the padding rows that look for the one after it."""

    def __init__(self, technique: LexicalUnits, part: Padding | None, run: Run) -> None:
        self._alpha, self._part, self._anatomy = technique.alpha, part, run.model.anatomy
        self._length = 0 if part is None else min(technique.length, part.orders)
        self._sampler = run.sampler
        self._cost = sum(value.numel() for value in part.parameters()) if part is not None else 0
        self._unit: list[int] = []
        self._chances: list[float] = []

    def propose(self, tokens: Sequence[int], limit: int) -> Draft:
        unit, chances = self._unit[:limit], self._chances[:limit]
        orders = list(range(1, min(self._length, limit - len(unit)) + 1))
        if not unit and not orders:
            return Draft()
        draft = Draft(unit, confidence=chances)
        if orders:
            first = len(tokens) - 1 + len(unit)
            draft.ahead = Lookahead([len(unit)] * len(orders), orders, self._maker(first))
            draft.flops = 2 * self._cost
            draft.bytes = self._cost * self._anatomy.unembedding.element_size()
        return draft

    def accept(self, draft: Draft, logits: Tensor, sampler: Sampler) -> tuple[list[int], int]:
        # What a logits policy has ruled out is not taken unverified either.
        kept = len(draft.tokens)
        if kept:
            taken = numbers(draft.tokens, logits.device)
            ruled_out = (logits[:kept].gather(1, taken[:, None])[:, 0] == float("-inf")).tolist()
            kept = next((node for node, out in enumerate(ruled_out) if out), kept)
        return list(range(kept)), sampler.choose_after(logits, kept)

    def verified(self, verification: Verification) -> None:
        self._unit, self._chances = [], []
        if verification.ahead is None:
            return
        rows = verification.ahead
        distribution = rows.float().softmax(-1) if self._sampler.greedy else self._sampler.distribution(rows)
        chances, tokens = distribution.max(-1)
        before = verification.next_token
        for token, chance in zip(*read(tokens, chances)):
            if chance < self._alpha or token == before:
                break
            self._unit.append(token)
            self._chances.append(chance)
            before = token

    def _maker(self, first: int):
        def make(x: Tensor, orders: list[int]) -> Tensor:
            rows = self._part.rows(x, orders)
            shift = position_shift(self._anatomy, numbers([first + order for order in orders], x.device))
            return rows if shift is None else rows + shift

        return make
