"""Draft and verify at the same time.

Paper
-----
Liu et al., PEARL: Parallel Speculative Decoding with Adaptive Draft Length, 2024, arXiv 2408.11850. Model and drafter
start together. Pre-verify: while the model reads the text, the drafter drafts after it, and the first token drafted is
then verified against the model's distribution; if it is kept, the others are the draft of the next step. Post-verify:
while the model verifies a draft, the drafter drafts what follows all of it; if all of it is kept, the first token that
follows is verified as well, against what the model says after the draft, and the others are the next draft. After a
rejection comes a pre-verify.

Source
------
github.com/smart-lty/ParallelSpeculativeDecoding: a step drafts gamma tokens. The last of the gamma rows that its
post-verify reads is that of the first token which was drafted in the same step.

Formula
-------
A step that keeps all of gamma tokens costs max(t_model, gamma t_draft) instead of their sum. Every token is accepted
with min(1, p / q) and replaced from max(0, p - q), normalised, as in speculative sampling.

Deviates
--------
Gamma is ``draft`` plus one, so that ``draft`` tokens are left for the next verification; the paper tunes it to the
ratio of the two models' speeds. A worker whose draft was rejected finishes its tokens all the same, so that runs do not
depend on the clock. ``first``, ``exit_layer`` and ``branches`` are not PEARL's; with their defaults they are off.
Chance for drafting has a seed of its own, derived from the run's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Self

from pydantic import Field
from torch import Tensor

from workbench.engine import Draft, Look, Pass, Run
from workbench.engine.ledger import DRAFT
from workbench.models.device import device_named
from workbench.settings import outside, settings
from workbench.techniques._technique import register
from workbench.techniques.draft._drafter import Drafter, DraftTechnique
from workbench.techniques.draft._model_drafter import Chain, DrafterName, ModelDrafter, drafter_model
from workbench.techniques.draft.overlapped_draft.overlap import Ahead


@register
@settings
class OverlappedDraft(DraftTechnique):
    """A worker drafts what follows a draft while that draft is verified.

    Parameters
    ----------
    model : str
        See :func:`workbench.techniques.draft._model_drafter.drafter_model`.
    draft : int
        Tokens drafted beside a verification, and verified by the next; 0 drafts nothing.
    first : int
        Tokens drafted before a verification when nothing is ready, after a rejection: the rest is drafted while these
        are verified. 0 is PEARL's pre-verify, for which no verification waits.
    device : str
        Where the drafter runs, and a copy of its weights goes; empty for beside the model.
    exit_layer : float
        Share of the model's layers after which an early exit, the model's own unembedding of that layer, tells the
        worker what the model thinks so far; 0 for none.
    branches : int
        Tokens followed where the exit contradicts the draft.
    at_once : bool
        Whether the worker is a thread of its own; False does the same work after the verification, for comparison.

    Notes
    -----
    :func:`~.overlap.modelled_overlap` says what two devices would make of the times of a run that was not at once:
    greedy, a step's ``verify_seconds`` and the next one's ``draft_seconds``. Where it samples, a step whose draft
    was kept waits for the token that follows, and the drafting is in its own ``draft_seconds``.
    """

    model: DrafterName = "auto"
    draft: Annotated[int, Field(ge=0, le=32, description="tokens drafted beside a verification")] = 4
    first: Annotated[int, Field(ge=0, le=32, description="tokens drafted before a verification after a rejection")] = 0
    device: Annotated[str, outside("device", "device of the drafter, as cuda:1; empty for the model's")] = ""
    exit_layer: Annotated[float, Field(ge=0, lt=1, description="share of layers before the early exit; 0: none")] = 0.0
    branches: Annotated[int, Field(ge=1, le=8, description="tokens of the early exit that are followed")] = 1
    at_once: Annotated[bool, Field(description="draft in a thread of its own")] = True

    paper = "Liu et al., PEARL: Parallel Speculative Decoding with Adaptive Draft Length, 2024, arXiv 2408.11850"

    def drafter(self, run: Run) -> _Overlapped:
        # The worker's thread shares nothing with the model that a forward changes.
        model = drafter_model(run.model, self.model).variant(device=device_named(self.device) if self.device else None)
        run.check_positions(model)
        drafter = ModelDrafter(model, run.max_new_tokens + 2 * self.draft + 2)
        sampler = replace(run.sampler, chance=run.sampler.chance.fork(0x5EED))
        branches = self.branches if self.exit_layer else 0
        return _Overlapped(self, run, drafter, Ahead(drafter, sampler, branches, self.at_once))

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return (
            cls(model="/2"),
            cls(model="/1.0", draft=3, first=1),
            cls(model="/2", draft=3, exit_layer=0.5, branches=2),
        )

    @classmethod
    def smallest(cls) -> Self:
        return cls(model="/2", draft=1)


class _Overlapped(Drafter):
    """What was drafted ahead, and the part of it that the text went along with."""

    def __init__(self, technique: OverlappedDraft, run: Run, drafter: ModelDrafter, ahead: Ahead) -> None:
        self._technique, self._drafter, self._ahead = technique, drafter, ahead
        self._anatomy, self._greedy = run.model.anatomy, run.sampler.greedy
        self._base = 0
        self._chains: list[Chain] | None = None

    def propose(self, tokens: Sequence[int], limit: int) -> Draft:
        new = list(tokens[self._base :])
        chain = Chain()
        for ready in self._ready():
            if ready.tokens[: len(new)] == new and len(ready.tokens) > len(new):
                chain = ready.after(len(new)).first(limit)
                break
        first = min(self._technique.first, limit)
        if not chain.tokens and first:
            chain = self._ahead.draft(tokens, first)
        cost = self._drafter.flops, self._drafter.bytes
        self._drafter.reset_counts()
        count = min(self._technique.draft + 1, limit - len(chain.tokens))
        distributions = None if self._greedy else self._spread(chain.distributions)
        draft = Draft(chain.tokens, None, distributions, *cost, chain.confidence or None)
        self._chains = None
        if count > 0:
            self._base = len(tokens)
            self._ahead.begin(tokens, chain, count)
            draft.looks = self._exits()
            draft.following = None if self._greedy else lambda: self._following(len(chain.tokens))
        return draft

    def close(self) -> None:
        self._ahead.close()

    def _ready(self) -> list[Chain]:
        """What the worker drafted since it was last told to."""
        if self._chains is None:
            self._chains = self._ahead.ready()
        return self._chains

    def _following(self, drafted: int) -> tuple[int, Tensor]:
        """The worker's token after a draft of so many, and what it was drawn from [vocabulary]."""
        chain = self._ready()[0].after(drafted).first(1)
        return chain.tokens[0], self._spread(chain.distributions)[0]

    def _spread(self, distributions: Sequence[Tensor]) -> Tensor | None:
        rows = self._drafter.spread(distributions, self._anatomy.vocabulary)
        return None if rows is None else rows.to(self._anatomy.device)

    def _exits(self) -> tuple[Look, ...]:
        """A look at the residual stream of a middle layer, for the worker."""
        if not self._technique.exit_layer:
            return ()

        def see(verifying: Pass) -> None:
            hidden = verifying.streams(range(verifying.count))
            # The worker multiplies in its own time, which must not decide whose step it is counted in.
            verifying.decoder.ledger.product(DRAFT, len(hidden), self._anatomy.head)
            self._ahead.hint(hidden, self._anatomy.unembed)

        return (Look(max(1, round(self._technique.exit_layer * self._anatomy.layers)), see),)
