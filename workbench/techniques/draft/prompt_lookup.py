"""Draft what followed the last words when they stood in the text before.

Paper
-----
Apoorv Saxena, Prompt Lookup Decoding, 2023 (no arXiv id; github.com/apoorvumang/prompt-lookup-decoding). The same idea
with a reference text: Yang et al., Inference with Reference, 2023, arXiv 2304.04487.

Formula
-------
For n = ``ngram`` ... 1: the largest j < t with x_(j-n+1..j) = x_(t-n+1..t); the draft is x_(j+1), x_(j+2), ...

Deviates
--------
The latest earlier occurrence is taken rather than the first: what is near is more often what goes on. Where it lies so
near that the text ends before the draft is full, the draft goes on copying itself, as if the text were periodic.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Self

from pydantic import Field

from workbench.engine import Draft, Run
from workbench.settings import settings
from workbench.techniques._technique import register
from workbench.techniques.draft._drafter import Drafter, DraftTechnique


@register
@settings
class PromptLookup(DraftTechnique):
    """N-gram match in the text so far.

    Parameters
    ----------
    ngram : int
        Longest run of last tokens that is searched for; shorter ones follow down to one token.
    draft : int
        Most tokens drafted at once; 0 drafts nothing.
    """

    ngram: Annotated[int, Field(ge=1, le=16, description="longest n-gram searched for")] = 3
    draft: Annotated[int, Field(ge=0, le=64, description="most tokens drafted at once")] = 10

    segments = True
    paper = "Saxena, Prompt Lookup Decoding, 2023; Yang et al., Inference with Reference, 2023, arXiv 2304.04487"

    def drafter(self, run: Run) -> _Lookup:
        return _Lookup(self.ngram, self.draft)

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return cls(), cls(ngram=2, draft=4)


class _Lookup(Drafter):
    """An index from every n-gram to where it last ended, kept up as the text grows."""

    def __init__(self, ngram: int, draft: int) -> None:
        self._ngram, self._draft = ngram, draft
        self._ends: list[dict[tuple[int, ...], int]] = [{} for _ in range(ngram)]
        self._indexed = 0

    def propose(self, tokens: Sequence[int], limit: int) -> Draft:
        # The n-grams that end with the last token are left out: they would find themselves.
        for end in range(self._indexed + 1, len(tokens)):
            for size in range(1, min(self._ngram, end) + 1):
                self._ends[size - 1][tuple(tokens[end - size : end])] = end
        self._indexed = max(self._indexed, len(tokens) - 1)
        length = min(self._draft, limit)
        for size in range(min(self._ngram, len(tokens) - 1), 0, -1):
            end = self._ends[size - 1].get(tuple(tokens[-size:]))
            if end is not None and length:
                copied = list(tokens[end : end + length])
                while len(copied) < length:
                    copied.append(copied[len(copied) - (len(tokens) - end)])
                return Draft(copied)
        return Draft()
