"""Draft and verify at the same time.

Paper
-----
Liu et al., PEARL: Parallel Speculative Decoding with Adaptive Draft Length, 2024, arXiv 2408.11850. Branches from an
early exit: Bhendawade et al., Mirror Speculative Decoding, 2025, arXiv 2510.13161. Two devices: Zhang et al., Dovetail:
A CPU/GPU Heterogeneous Speculative Decoding for LLM Inference, 2024, arXiv 2412.18934.

Deviates
--------
The engine takes a token of the model's own after every verification, which PEARL does not: the worker therefore drafts
one token more, and its continuation is of use if that token is the one the model takes. A worker whose draft was
rejected finishes its tokens all the same, so that runs do not depend on the clock. The early exit of Mirror Speculative
Decoding is trained and its branches are verified as a tree; here it is the model's own unembedding of a middle layer,
untrained, and its branches are drafts kept ready. Chance for drafting has a seed of its own, derived from the run's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Self

from pydantic import Field
from torch import Tensor

from workbench.drafting.drafter import Chain, DrafterName, ModelDrafter, drafter_model
from workbench.drafting.overlap import Ahead
from workbench.drafting.placement import placed
from workbench.engine import Chance, Draft, Lookahead, Run, Sampler, Verification
from workbench.errors import SettingError
from workbench.settings import settings
from workbench.techniques._technique import Technique, register


@register
@settings
class OverlappedDraft(Technique):
    """A worker drafts what follows a draft while that draft is verified.

    Parameters
    ----------
    model : str
        See :func:`workbench.drafting.drafter.drafter_model`.
    draft : int
        Tokens drafted beside a verification, and verified by the next; 0 drafts nothing.
    first : int
        Tokens drafted before a verification when nothing is ready, after a rejection: the rest is drafted while these
        are verified. PEARL's pre-verify has 1.
    device : str
        Where the drafter runs, and a copy of its weights goes; empty for beside the model.
    exit_layer : float
        Share of the model's layers after which an early exit tells the worker what the model thinks so far; 0 for none.
    branches : int
        Tokens followed where the exit contradicts the draft.
    at_once : bool
        Whether the worker is a thread of its own; False does the same work after the verification, for comparison.

    Notes
    -----
    :func:`workbench.drafting.overlap.modelled_overlap` says what two devices would make of the times of a run that was
    not at once: a step's ``verify_seconds`` and the next one's ``draft_seconds``.
    """

    model: DrafterName = "auto"
    draft: Annotated[int, Field(ge=0, le=32, description="tokens drafted beside a verification")] = 4
    first: Annotated[int, Field(ge=1, le=32, description="tokens drafted before a verification after a rejection")] = 1
    device: Annotated[str, Field(description="device of the drafter, as cuda:1; empty for the model's")] = ""
    exit_layer: Annotated[float, Field(ge=0, lt=1, description="share of layers before the early exit; 0: none")] = 0.0
    branches: Annotated[int, Field(ge=1, le=8, description="tokens of the early exit that are followed")] = 1
    at_once: Annotated[bool, Field(description="draft in a thread of its own")] = True

    slots = ("draft",)
    exact = True
    paper = "Liu et al., PEARL, 2024, arXiv 2408.11850; Bhendawade et al., Mirror SD, 2025, arXiv 2510.13161"

    def start(self, run: Run) -> _Overlapped:
        model = placed(drafter_model(run.model, self.model), self.device or None)
        if model.anatomy.positions < len(run.prompt) + run.max_new_tokens:
            raise SettingError(f"{model.name} knows {model.anatomy.positions:,} positions, too few for this run")
        drafter = ModelDrafter(model, run.max_new_tokens + 2 * self.draft + 2)
        sampler = Sampler(run.sampler.temperature, run.sampler.top_p, run.sampler.top_k, Chance(run.seed + 0x5EED))
        branches = self.branches if self.exit_layer else 0
        return _Overlapped(self, run, drafter, Ahead(drafter, sampler, branches, self.at_once))

    @classmethod
    def neutral(cls) -> Self:
        return cls(draft=0)

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return cls(model="/2"), cls(model="/1.0", draft=3), cls(model="/2", draft=3, exit_layer=0.5, branches=2)


class _Overlapped:
    """What was drafted ahead, and the part of it that the text went along with."""

    def __init__(self, technique: OverlappedDraft, run: Run, drafter: ModelDrafter, ahead: Ahead) -> None:
        self._technique, self._drafter, self._ahead = technique, drafter, ahead
        self._anatomy, self._greedy = run.model.anatomy, run.sampler.greedy
        self._base = 0

    def propose(self, tokens: Sequence[int], limit: int) -> Draft:
        if not self._technique.draft:
            return Draft()
        new = list(tokens[self._base :])
        chain = Chain()
        for found in self._ahead.ready():
            if found.tokens[: len(new)] == new and len(found.tokens) > len(new):
                chain = found.after(len(new)).first(limit)
                break
        if not chain.tokens and limit:
            chain = self._ahead.draft(tokens, min(self._technique.first, limit))
        cost = self._drafter.flops, self._drafter.bytes
        self._drafter.reset_counts()
        count = min(self._technique.draft + 1, limit - len(chain.tokens))
        if count > 0:
            self._base = len(tokens)
            self._ahead.begin(tokens, chain, count)
        laws = None if self._greedy or not chain.tokens else self._drafter.spread(chain.laws, self._anatomy.vocabulary)
        laws = None if laws is None else laws.to(self._anatomy.device)
        exits = self._exits(len(chain.tokens), limit) if count > 0 else None
        return Draft(chain.tokens, None, laws, *cost, chain.confidence or None, exits)

    def verified(self, verification: Verification) -> None:
        pass

    def close(self) -> None:
        self._ahead.close()

    def _exits(self, drafted: int, limit: int) -> Lookahead | None:
        """Rows that carry nothing: they are where the residual stream of a middle layer can be seen."""
        if not self._technique.exit_layer or not drafted or drafted + 1 > limit:
            return None

        def make(x: Tensor, orders: list[int]) -> Tensor:
            self._ahead.hint(x.clone(), self._anatomy.unembed)
            return x

        layer = max(1, round(self._technique.exit_layer * self._anatomy.layers))
        return Lookahead(list(range(drafted + 1)), [1] * (drafted + 1), make, layer)
