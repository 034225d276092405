"""Draft with a model that reads only the passages of a long prompt that its end asks for.

Paper
-----
Chen et al., Long-Context Inference with Retrieval-Augmented Speculative Decoding (RAPID), 2025, arXiv 2502.20330.

Formula
-------
BM25 of a passage P for the asking tokens Q, c(x) the count of x in P, N passages of which n(x) have x:

    sum over x in Q of log(1 + (N - n(x) + 1/2) / (n(x) + 1/2)) 2.2 c(x) / (c(x) + 1.2 (1/4 + 3/4 |P| / mean |P|)).

Deviates
--------
Passages are ranked by BM25 over token ids, not by an embedding model; what asks are the last tokens of the prompt, as a
prompt does not say where its question stands. The first passage stays, for the chat template and the instructions that
begin there; the paper writes a prompt of its own around the passages. The transfer of the drafter's distribution into
the target's is a technique of its own, :class:`workbench.techniques.RetrievalContextTransfer`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Self

from pydantic import Field

from workbench.engine import Draft, Run
from workbench.settings import outside, settings
from workbench.techniques._technique import register
from workbench.techniques.draft._context_drafter import ContextDrafter
from workbench.techniques.draft._drafter import Drafter, DraftTechnique
from workbench.techniques.draft._passages import retrieved_context


@register
@settings
class RetrievalContextDraft(DraftTechnique):
    """A chain from the same model, or another, over a retrieved context.

    Parameters
    ----------
    draft : int
        Tokens drafted at once; 0 drafts nothing.
    budget : int
        Tokens of the prompt that the drafter reads.
    chunk : int
        Tokens of a passage.
    query : int
        Tokens at the prompt's end that ask, and are read.
    model : str
        See :func:`workbench.techniques.draft._model_drafter.drafter_model`; ``/1.0`` is the main model itself.
    """

    draft: Annotated[int, Field(ge=0, le=32, description="tokens drafted at once")] = 10
    budget: Annotated[int, Field(ge=2, le=65_536, description="tokens of the prompt the drafter reads")] = 512
    chunk: Annotated[int, Field(ge=1, le=4096, description="tokens of a passage")] = 64
    query: Annotated[int, Field(ge=1, le=4096, description="last tokens of the prompt, which ask")] = 64
    model: Annotated[str, outside("model", "drafter: /layers, /share, or a model's name", min_length=1)] = "/1.0"

    paper = "Chen et al., Long-Context Inference with Retrieval-Augmented Speculative Decoding, 2025, arXiv 2502.20330"

    def drafter(self, run: Run) -> _Reader:
        context = retrieved_context(run.prompt, self.chunk, self.budget, self.query)
        return _Reader(ContextDrafter(run, self.model, context, self.draft), self.draft)

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return cls(draft=4, budget=24, chunk=4, query=8), cls(draft=3, budget=16, chunk=3, query=6, model="/2")

    @classmethod
    def smallest(cls) -> Self:
        return cls(draft=2, budget=16, chunk=3, query=6, model="/2")


class _Reader(Drafter):
    def __init__(self, drafter: ContextDrafter, draft: int) -> None:
        self.drafter, self._draft = drafter, draft

    def propose(self, tokens: Sequence[int], limit: int) -> Draft:
        return self.drafter.chain(tokens, min(self._draft, limit))
