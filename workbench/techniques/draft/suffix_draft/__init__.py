"""Draft what followed the longest suffix of the text when it stood there before, as far as that can be trusted.

Paper
-----
Hu et al., SAM Decoding: Speculative Decoding via Suffix Automaton, 2024, arXiv 2411.10666.

Formula
-------
A match of m tokens is trusted with a_m, learned from a guess g = max(0.22, 1 - 0.85 / m) with the weight of four
tokens: (4 g + right_m) / (4 + seen_m). The draft is what followed the match, as long as

    a_m a_(m+1) ... a_(m+i) >= ``least``.

Deviates
--------
How long a draft may be follows from the chance that each copied token is right: it starts from a guess that grows with
the length of the match and is learned from what was accepted for matches of that length; the draft ends where the
chance of its whole path falls below ``least``, where the paper bounds it by a constant. The paper drafts with the
auxiliary drafter alone where the match is short; here both drafts are verified in one tree, unless the auxiliary draws
its tokens by chance, has rows of its own in the forward, or holds the pass that verifies.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Annotated, Self

from pydantic import Field

from workbench.engine import Draft, Run, Verification
from workbench.engine.slots import DraftPolicy
from workbench.settings import outside, settings
from workbench.techniques._technique import register
from workbench.techniques.draft._drafter import Drafter, DraftTechnique
from workbench.techniques.draft.suffix_draft.corpus import indexed
from workbench.techniques.draft.suffix_draft.merged import merged
from workbench.techniques.draft.suffix_draft.suffix_automaton import SuffixAutomaton


@register
@settings
class SuffixDraft(DraftTechnique):
    """Longest-suffix match over prompt, output and an optional corpus.

    Parameters
    ----------
    draft : int
        Most tokens drafted at once; 0 drafts nothing.
    least : float
        A token is drafted while the chance that it and all before it are right is at least this.
    shortest : int
        Matches of fewer tokens are not trusted.
    corpus : str
        A text file to search too, in UTF-8; empty for none. See :func:`~.corpus.indexed`.
    auxiliary : str
        Another drafting technique, asked where the match is short: ``hydra_heads``, or ``token_recycling:nodes=20``;
        empty for none.
    alone : int
        Matches of so many tokens are copied without asking the auxiliary.
    """

    draft: Annotated[int, Field(ge=0, le=64, description="most tokens drafted at once")] = 48
    least: Annotated[float, Field(gt=0, lt=1, description="least chance of a drafted path")] = 0.1
    shortest: Annotated[int, Field(ge=1, le=16, description="shortest match trusted")] = 1
    corpus: Annotated[str, outside("text", "text file to search too; empty for none")] = ""
    auxiliary: Annotated[str, outside("technique", "drafter asked where the match is short; empty for none")] = ""
    alone: Annotated[int, Field(ge=1, le=64, description="match that is copied without the auxiliary")] = 8

    paper = "Hu et al., SAM Decoding: Speculative Decoding via Suffix Automaton, 2024, arXiv 2411.10666"

    def drafter(self, run: Run) -> _SuffixDraft:
        corpus = indexed(run.model, self.corpus) if self.corpus else None
        return _SuffixDraft(self, corpus, run.start_part(self, "auxiliary"))

    def start(self, run: Run) -> Drafter:
        # Where nothing is copied an auxiliary may still draft.
        return self.drafter(run) if self.auxiliary else super().start(run)

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return cls(), cls(draft=5, least=0.3, shortest=2), cls(auxiliary="token_recycling", alone=3)


class _SuffixDraft(Drafter):
    """The automaton of the text so far, what became of earlier drafts, and the drafter for short matches."""

    def __init__(self, settings: SuffixDraft, corpus: SuffixAutomaton | None, auxiliary: DraftPolicy | None) -> None:
        self._settings, self._corpus, self._auxiliary = settings, corpus, auxiliary
        self._own = SuffixAutomaton()
        self._in_corpus = (0, 0)
        self._trust = _Trust()
        self._matched, self._proposed = 0, list[int]()

    def propose(self, tokens: Sequence[int], limit: int) -> Draft:
        copied = self._longest(tokens, limit)
        self._proposed = list(copied.tokens)
        if self._auxiliary is None or (copied.tokens and self._matched >= self._settings.alone):
            return copied
        other = self._auxiliary.propose(tokens, limit)
        if not copied.tokens or other.by_chance or other.ahead is not None:
            return other
        if other.paused is not None or other.looks:
            # The pass that it holds or looks at has its own tokens; where it drafted none the copy is verified.
            return other if other.tokens else copied
        return merged(copied, other)

    def verified(self, verification: Verification) -> None:
        # Whatever was verified, the tokens that came say whether the copy was right.
        for step, (copied, token) in enumerate(zip(self._proposed, verification.tokens)):
            self._trust.saw(self._matched + step, copied == token)
            if copied != token:
                break
        self._proposed = []
        if self._auxiliary is not None:
            self._auxiliary.verified(verification)

    def _longest(self, tokens: Sequence[int], limit: int) -> Draft:
        """The copy of what followed the longest match."""
        own = self._own
        for token in tokens[len(own.text) :]:
            own.append(token)
            if self._corpus is not None:
                self._in_corpus = self._corpus.advance(*self._in_corpus, token)
        text, (matched, place) = own.text, own.repeated
        if self._in_corpus[1] > matched:
            state, matched = self._in_corpus
            text, place = self._corpus.text, self._corpus.ended(state)
        self._matched = matched
        if matched < self._settings.shortest:
            return Draft()
        return self._copied(text, place, matched, min(self._settings.draft, limit))

    def _copied(self, text: list[int], place: int, matched: int, most: int) -> Draft:
        """What stands in ``text`` from ``place`` on, while it can be trusted; where the text ends it is taken to repeat
        itself from there."""
        draft, chance, period = Draft(confidence=[]), 1.0, max(1, len(text) - place)
        for step in range(most):
            likely = self._trust.of(matched + step)
            chance *= likely
            if chance < self._settings.least:
                break
            draft.tokens.append(text[place + step % period])
            draft.confidence.append(likely)
        return draft


class _Trust:
    """The chance that a copied token is right, by the length of the match before it."""

    _EDGES = (1, 2, 3, 4, 6, 9, 15, 31)
    _PRIOR = 4.0
    # What was seen long ago counts less: texts change.
    _FADE = 0.98

    def __init__(self) -> None:
        self._right = [0.0] * (len(self._EDGES) + 1)
        self._seen = [0.0] * (len(self._EDGES) + 1)

    def of(self, matched: int) -> float:
        # As copies went in the model's answers to the training prompts.
        guess, bucket = max(0.22, 1.0 - 0.85 / matched), bisect_left(self._EDGES, matched)
        return min(0.995, (self._PRIOR * guess + self._right[bucket]) / (self._PRIOR + self._seen[bucket]))

    def saw(self, matched: int, right: bool) -> None:
        bucket = bisect_left(self._EDGES, matched)
        self._seen[bucket] = self._FADE * self._seen[bucket] + 1.0
        self._right[bucket] = self._FADE * self._right[bucket] + right
