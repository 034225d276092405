"""Which of k candidates drawn independently is kept: close to the best transport between drafter and model.

Paper
-----
Sun et al., SpecTr: Fast Speculative Decoding via Optimal Transport, 2023, arXiv 2310.15141 (k-sequential selection).

Formula
-------
With p the model's distribution, q the drafter's and k candidates, rho in [1, k] is the root of

    1 - (1 - beta(rho))^k = rho beta(rho),    beta(rho) = sum_x min(q(x), p(x) / rho);

a candidate x is kept with probability min(1, p(x) / (rho q(x))). If none is, the token is drawn from

    max(0, p(x) - min(q(x), p(x) / rho) (1 - (1 - beta)^k) / beta), normalised.

Deviates
--------
The paper's drafts are k whole continuations, a batch for the model; here they are the branches of a tree, so that what
they share runs once. The equation for rho is solved by bisection, from above, on the tokens where the two
distributions are within a factor of k of each other: the others contribute constants.
"""

from __future__ import annotations

from typing import Annotated, Self

import torch
from pydantic import Field
from torch import Tensor

from workbench.engine import Draft, Run, Sampler
from workbench.engine.accept import accept, next_token
from workbench.engine.slots import AcceptPolicy
from workbench.settings import settings
from workbench.techniques._technique import Technique, register

_HALVINGS = 40


@register
@settings
class OptimalTransportAccept(Technique):
    """Siblings of a draft as candidates of the k-sequential selection.

    A candidate x is kept with probability min(1, p(x) / (rho q(x))), each by itself, and rho is as small as lets the
    result be distributed as p: it accepts at least 1 - (1 - 1/k)^k, and so 1 - 1/e, of what the best rule accepts.

    Parameters
    ----------
    candidates : int
        Most siblings tried at a position, k; 0 leaves everything to the engine's own rule.

    Notes
    -----
    Siblings must be drawn independently from one distribution, as ``draft_model:paths=4`` draws them; with one
    candidate it is speculative sampling. Drafts chosen without chance, and greedy decoding, go by the engine's own
    rule.
    """

    candidates: Annotated[int, Field(ge=0, le=64, description="most siblings tried at a position")] = 16

    slots = ("accept",)
    exact = True
    paper = "Sun et al., SpecTr: Fast Speculative Decoding via Optimal Transport, 2023, arXiv 2310.15141"

    def start(self, run: Run) -> _Selection:
        return _Selection(self.candidates)

    @classmethod
    def neutral(cls) -> Self:
        return cls(candidates=0)

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return cls(), cls(candidates=2)


class _Selection(AcceptPolicy):
    """The walk down the tree; equal siblings go on together, and the candidates of a level are all their children."""

    def __init__(self, most: int) -> None:
        self._most = most

    def accept(self, draft: Draft, logits: Tensor, sampler: Sampler) -> tuple[list[int], int]:
        if sampler.greedy or draft.probabilities is None or self._most == 0:
            return accept(draft, logits, sampler)
        children = draft.children()
        alternatives, last = [-1], -1
        while True:
            target = sampler.distribution(logits[last + 1])
            candidates = [child for node in alternatives for child in children.get(node, ())][: self._most]
            if not candidates:
                return _path(draft, last), next_token(draft, last, target, sampler)
            drawn_from = draft.probabilities[candidates[0]].to(target)
            rho, once = threshold(target, drawn_from, len(candidates))
            kept = None
            for node in candidates:
                token = draft.tokens[node]
                if sampler.chance.flip(min(1.0, float(target[token] / (rho * drawn_from[token])))):
                    kept = token
                    break
            if kept is None:
                return _path(draft, last), sampler.chance.draw(residual(target, drawn_from, rho, once, len(candidates)))
            alternatives = [node for node in candidates if draft.tokens[node] == kept]
            last = alternatives[0]


def threshold(target: Tensor, drawn_from: Tensor, count: int) -> tuple[float, float]:
    """The smallest rho for which the selection keeps the target's distribution, and how often it keeps one candidate.

    Parameters
    ----------
    target, drawn_from : Tensor [vocabulary]
        p of the model and q of the drafter.
    count : int
        k, the number of candidates.

    Returns
    -------
    rho : float
        In [1, k]: the root of 1 - (1 - beta(rho))^k = rho * beta(rho).
    beta : float
        Sum over x of min(q(x), p(x) / rho).
    """
    above = target >= count * drawn_from
    below = target <= drawn_from
    drawn_whole = float(drawn_from[above & ~below].sum(dtype=torch.float64))
    target_whole = float(target[below].sum(dtype=torch.float64))
    between = ~(above | below)
    p, q = target[between].double(), drawn_from[between].double()

    def beta(rho: float) -> float:
        return drawn_whole + target_whole / rho + float(torch.minimum(q, p / rho).sum())

    low, high = 1.0, float(count)
    if count > 1:
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            once = beta(middle)
            if middle * once >= 1 - (1 - once) ** count:
                high = middle
            else:
                low = middle
    return high, min(1.0, beta(high))


def residual(target: Tensor, drawn_from: Tensor, rho: float, once: float, count: int) -> Tensor:
    """What to draw from [vocabulary] when none of ``count`` candidates was kept; see :func:`threshold`."""
    if once <= 0:
        return target
    kept = torch.minimum(drawn_from, target / rho) * ((1 - (1 - once) ** count) / once)
    left = (target - kept).clamp_(min=0)
    total = left.sum()
    # Rounding can leave nothing where p and q are equal; then p itself is the right distribution.
    return left / total if total > 0 else target


def _path(draft: Draft, node: int) -> list[int]:
    return [] if node < 0 else [*_path(draft, draft.parent(node)), node]
