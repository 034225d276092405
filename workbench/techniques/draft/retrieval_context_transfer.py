"""Draft over a retrieved context, and let the drafter's distribution pull at the model's own.

Paper
-----
Chen et al., Long-Context Inference with Retrieval-Augmented Speculative Decoding (RAPID), 2025, arXiv 2502.20330,
equations 6 and 9: with p the model's and q the drafter's distribution at temperature T, the target is
softmax(z / T + strength (q - p)), as one step of distillation from the drafter; where q is below a tenth of its largest
value the logits stay as they are.

Source
------
github.com/John-AI-Lab/RAPID (``_speculative_sampling``): it is q, the drafter's distribution, whose tail is left out.

Formula
-------
    target = softmax(z / T + strength (q - p)),    p = softmax(z / T),

where q(x) >= max(q) / 10, and z / T elsewhere.

Deviates
--------
Every token follows that target. The paper accepts by it but draws what replaces a rejected token from
max(p - target, p - q), and the token after a whole draft from p, so that what comes out lies between both. Greedy, p
and q are those at temperature 1. For retrieval see :class:`workbench.techniques.RetrievalContextDraft`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Self

import torch
from pydantic import Field
from torch import Tensor

from workbench.engine import Draft, Run
from workbench.engine.slots import LogitsPolicy
from workbench.settings import outside, settings
from workbench.techniques._technique import Technique, register
from workbench.techniques.draft._context_drafter import ContextDrafter
from workbench.techniques.draft._drafter import Drafter
from workbench.techniques.draft._passages import retrieved_context

_TAIL = 0.1


@register
@settings
class RetrievalContextTransfer(Technique):
    """The model over everything, taught a little by one over the passages that matter.

    Parameters
    ----------
    strength : float
        How strongly the drafter pulls; 0 leaves the model alone. The paper takes 5 to 20 for a drafter of equal size.
    draft, budget, chunk, query, model
        As in :class:`workbench.techniques.RetrievalContextDraft`.
    """

    strength: Annotated[float, Field(ge=0, le=100, description="how strongly the drafter pulls")] = 10.0
    draft: Annotated[int, Field(ge=0, le=32, description="tokens drafted at once")] = 10
    budget: Annotated[int, Field(ge=2, le=65_536, description="tokens of the prompt the drafter reads")] = 512
    chunk: Annotated[int, Field(ge=1, le=4096, description="tokens of a passage")] = 64
    query: Annotated[int, Field(ge=1, le=4096, description="last tokens of the prompt, which ask")] = 64
    model: Annotated[str, outside("model", "drafter: /layers, /share, or a model's name", min_length=1)] = "/1.0"

    slots = ("draft", "logits")
    exact = False
    paper = "Chen et al., Long-Context Inference with Retrieval-Augmented Speculative Decoding, 2025, arXiv 2502.20330"

    def start(self, run: Run) -> _Teacher:
        context = retrieved_context(run.prompt, self.chunk, self.budget, self.query)
        return _Teacher(self, ContextDrafter(run, self.model, context, self.draft), run.sampler.temperature or 1.0)

    @classmethod
    def neutral(cls) -> Self:
        return cls(strength=0.0)

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return (
            cls(strength=5.0, draft=4, budget=24, chunk=4, query=8),
            cls(strength=20.0, draft=3, budget=16, chunk=3, query=6, model="/2"),
        )


class _Teacher(Drafter, LogitsPolicy):
    def __init__(self, technique: RetrievalContextTransfer, drafter: ContextDrafter, temperature: float) -> None:
        self.drafter, self._settings, self._temperature = drafter, technique, temperature

    def propose(self, tokens: Sequence[int], limit: int) -> Draft:
        return self.drafter.chain(tokens, min(self._settings.draft, limit))

    def adjust(self, tokens: Sequence[int], logits: Tensor) -> Tensor:
        if not self._settings.strength:
            return logits
        teacher = self.drafter.distribution(tokens, self._temperature)
        return transferred(logits, teacher, self._settings.strength, self._temperature)


def transferred(logits: Tensor, teacher: Tensor, strength: float, temperature: float) -> Tensor:
    """Logits [vocabulary] of the target distribution, from the model's logits z and the drafter's distribution q.

    Parameters
    ----------
    logits, teacher : Tensor [vocabulary]
    strength, temperature : float

    Returns
    -------
    Tensor [vocabulary]
        float32. ``z + strength T (q - p)``, and ``z`` in the tail of q.
    """
    own = logits.float() / temperature
    pulled = own + strength * (teacher - own.softmax(-1))
    return torch.where(teacher < _TAIL * teacher.max(), own, pulled) * temperature
