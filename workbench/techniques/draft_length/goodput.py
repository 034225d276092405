"""Draft as long as it pays: the length that gives most tokens for each second, from what was accepted and what it cost.

Paper
-----
Liu et al., Optimizing Speculative Decoding for Serving Large Language Models Using Goodput (SmartSpec), 2024, arXiv
2406.14066: of all lengths k the one with the largest l(k) / t(k), where t(k) are the seconds of a step, drafting
included, and l(k) = (1 - a^(k+1)) / (1 - a) the tokens that it is expected to give, with a the moving average of the
share of drafted tokens that were accepted. The paper's own code starts from a = 0.7.

Formula
-------
With a_i the chance that a token at depth i is kept if the one above it is, the length is

    argmax_k l(k) / t(k),    l(k) = 1 + sum_(d=1..k) prod_(i=1..d) a_i,    t(k) = draft(k) + s verify(1 + k),

s how much slower this run's forwards are than the curve, and 0 unless that is 1.05 l(0) / t(0). The estimators:

    smartspec:   a <- 0.9 a + 0.1 (kept / depth), one for all depths, so that l(k) = (1 - a^(k+1)) / (1 - a)
    calibrated:  a_i = (6 g + kept_i) / (6 + seen_i), counts fading by 0.95; g = 0.7, or what the drafter says

Deviates
--------
One request at a time, so the batch is the request and the paper's scheduling over requests is left out. The paper
predicts a step's time by a linear model fitted offline; here the cost of a forward is a curve measured for the model
and scaled by what the steps of this run take, so that a busy machine shortens drafts. Where drafting does not pay it
stops, and is tried again after longer and longer pauses; a draft must promise a twentieth more than none does.

By default (``estimator="calibrated"``) the expected tokens are not SmartSpec's either: each depth has an acceptance
rate of its own, and where a draft made without chance says how sure it is of its tokens, such a draft, chain or tree,
is cut after it was made to the nodes that are worth their share of the forward. ``estimator="smartspec"`` has the one
moving rate and the series above, and sets the length alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import Field

from workbench.cost.roofline import step_seconds
from workbench.engine import Draft, Run, Verification, VerifyCost, verify_cost
from workbench.engine.slots import DraftLengthPolicy
from workbench.engine.verify_cost import modelled_on, steady
from workbench.settings import settings
from workbench.techniques._technique import Technique, register
from workbench.techniques.draft_length._acceptance_rate import CalibratedRate, MovingRate


@register
@settings
class Goodput(Technique):
    """Draft length by measured acceptance and measured cost; beside any drafter.

    Parameters
    ----------
    longest : int
        Most tokens depth; 0 never drafts.
    cost : {"measured", "modelled"}
        Wall clock of this machine, or counted FLOPs and bytes on a roofline, which depends on no clock; see
        :func:`workbench.engine.verify_cost`. Modelled wherever the text would else hang on the clock.
    estimator : {"calibrated", "smartspec"}
        Acceptance by depth and by what the drafter says, or SmartSpec's one moving rate.

    Notes
    -----
    A draft whose tokens were drawn is never cut, for its shape tells what was drawn (see
    :class:`workbench.engine.slots.DraftLengthPolicy`): of such drafts the limit alone decides, which is set before they
    are made.
    """

    longest: Annotated[int, Field(ge=0, le=64, description="most tokens drafted in a row")] = 64
    cost: Annotated[Literal["measured", "modelled"], Field(description="what a forward costs")] = "measured"
    estimator: Annotated[
        Literal["calibrated", "smartspec"], Field(description="acceptance by depth and confidence, or one moving rate")
    ] = "calibrated"

    slots = ("draft_length",)
    exact = True
    paper = "Liu et al., SmartSpec: Optimizing Speculative Decoding Using Goodput, 2024, arXiv 2406.14066"

    def start(self, run: Run) -> _Goodput:
        kind = steady(self.cost, run)
        return _Goodput(self, run, verify_cost(run.model, kind), kind == "measured")

    @classmethod
    def neutral(cls) -> Self:
        return cls(longest=0)

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return cls(cost="modelled"), cls(longest=3, cost="modelled"), cls(cost="modelled", estimator="smartspec")


class _Goodput(DraftLengthPolicy):
    """Averages over the run so far, and the two decisions made from them."""

    _FADE = 0.9
    _PAUSES = (4, 64)
    _TRY = 2
    # A draft must promise this much more than none: what is gained is a guess, what it costs is sure.
    _WORTH = 1.05

    def __init__(self, settings: Goodput, run: Run, forward: VerifyCost, measured: bool) -> None:
        self._settings, self._forward, self._measured = settings, forward, measured
        self._modelled_on = modelled_on(run.model.device)
        self._dtype = str(run.model.dtype).removeprefix("torch.")
        self._cuts = settings.estimator == "calibrated"
        self._chance = CalibratedRate() if self._cuts else MovingRate()
        # Of a forward of one token and of a wider one: they run different products, and drift apart from the curve.
        self._slower = [1.0, 1.0]
        self._per_draft, self._per_level = 0.0, 0.0
        self._gain: float | None = None
        self._pause = self._paused = 0
        self._drafting = self._trying = False
        self._refused, self._patience = 0, self._PAUSES[0]
        self._proposed_depth, self._per_depth, self._by_chance = 0, 1.0, False

    def limit(self, tokens: Sequence[int], limit: int) -> int:
        limit = min(limit, self._settings.longest)
        self._drafting, self._proposed_depth = False, 0
        if limit < 1:
            return 0
        if self._paused > 0:
            self._paused -= 1
            self._trying = self._paused == 0
            return 0
        best, length = self._WORTH * self._rate(0.0, 0, drafted=False), 0
        expected, path = 0.0, 1.0
        for depth in range(1, limit + 1):
            path *= self._chance.of_level(depth)
            expected += path
            rate = self._rate(expected, round(depth * self._per_depth), depth)
            if rate > best:
                best, length = rate, depth
        # A drafter whose draft costs the same whatever its length may as well be asked for all it has, if the draft can
        # still be cut.
        if self._cuts and not self._by_chance and self._per_level * limit < 0.1 * self._seconds(0):
            length = limit
        if length == 0 and self._trying:
            length = min(limit, self._TRY)
        if length == 0:
            self._rest()
        self._drafting = length > 0
        return length

    def prune(self, draft: Draft) -> Draft:
        if not isinstance(self._chance, CalibratedRate):
            return draft
        depths = draft.depths()
        self._proposed_depth = max(depths)
        chances: list[float] = []
        for node, depth in enumerate(depths):
            own = self._chance.of(depth, None if draft.confidence is None else draft.confidence[node])
            parent = draft.parent(node)
            chances.append(own * (chances[parent] if parent >= 0 else 1.0))
        order = sorted(range(len(chances)), key=lambda node: (-chances[node], node))
        best, kept, expected = self._WORTH * self._rate(0.0, 0), 0, 0.0
        for count, node in enumerate(order, 1):
            expected += chances[node]
            rate = self._rate(expected, count)
            if rate > best or (self._trying and count <= self._TRY):
                best, kept = max(best, rate), count
        if kept == 0:
            # A cheap drafter is asked on, as its next draft may be a sure one; now and then a poor one is tried.
            self._refused += 1
            if self._refused > self._patience:
                kept, self._refused, self._patience = min(self._TRY, len(order)), 0, 2 * self._patience
        return draft if kept == len(order) else draft.pruned(sorted(order[:kept]))

    def measured(self, verification: Verification, draft_seconds: float, verify_seconds: float) -> None:
        draft = verification.draft
        self._chance.saw(draft, verification.path)
        self._patience = self._PAUSES[0] if verification.path else min(self._patience, self._PAUSES[1])
        if not self._measured:
            draft_seconds = float(step_seconds(draft.flops, draft.bytes, self._modelled_on, self._dtype))
            verify_seconds = self._forward(1 + len(draft.tokens))
        wide = len(draft.tokens) > 0
        self._slower[wide] += (1 - self._FADE) * (
            verify_seconds / self._forward(1 + len(draft.tokens)) - self._slower[wide]
        )
        if not self._drafting:
            return
        if wide:
            self._trying = False
            deepest = max(draft.depths())
            self._by_chance = draft.by_chance
            self._proposed_depth = max(self._proposed_depth, deepest)
            # A tree that cannot be cut costs all its nodes.
            self._per_depth = len(draft.tokens) / deepest if self._by_chance else 1.0
        self._learn_cost(draft_seconds)
        seconds = draft_seconds + verify_seconds
        gain = (1 + len(verification.path)) * self._seconds(0) / seconds
        # The first drafts of a run are the worst: what they learn from has yet to come.
        self._gain = 1.0 if self._gain is None else self._gain
        self._gain += (1 - self._FADE) * (gain - self._gain)
        if self._gain < 0.97:
            self._rest()
        else:
            self._pause = 0

    def _rest(self) -> None:
        """Draft nothing for a while, longer each time in a row."""
        shortest, longest = self._PAUSES
        self._pause = min(longest, max(shortest, 2 * self._pause))
        self._paused = self._pause
        # The next try is judged by itself.
        self._gain = 0.98

    def _learn_cost(self, seconds: float) -> None:
        levels = max(1, self._proposed_depth)
        fade = 0.5 if self._per_draft == 0.0 else self._FADE
        self._per_draft = fade * self._per_draft + (1 - fade) * seconds if self._per_draft else seconds
        self._per_level = self._per_draft / levels

    def _rate(self, expected: float, nodes: int, depth: int | None = None, drafted: bool = True) -> float:
        """Tokens for each second of a step that verifies ``nodes`` and is expected to keep ``expected`` of them."""
        drafting = 0.0
        if drafted:
            drafting = self._per_draft if depth is None else min(self._per_draft, self._per_level * depth)
        return (1.0 + expected) / (drafting + self._seconds(nodes))

    def _seconds(self, nodes: int) -> float:
        """Of the forward that verifies so many nodes, as this run's forwards went."""
        return self._slower[nodes > 0] * self._forward(1 + nodes)
