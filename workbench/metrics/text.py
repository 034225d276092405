"""How far two answers agree: where they part, whether they are equal, and how much wording they share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import Any

__all__ = ["exact_match", "first_divergence", "rouge_l", "rouge_l_tokens"]

_MISSING = object()


def first_divergence(a: Iterable[Any], b: Iterable[Any]) -> int:
    """The first position at which two token sequences differ.

    Parameters
    ----------
    a, b
        Token ids: lists, tuples, arrays of one dimension; a string works too, by its characters.

    Returns
    -------
    int
        The index of the first position whose tokens differ, or -1 when the sequences are equal.
        Where one is a proper prefix of the other they part where the shorter one ends: the result
        is the length of the shorter, 0 if it is empty.
    """
    for position, (left, right) in enumerate(zip_longest(a, b, fillvalue=_MISSING)):
        if left is _MISSING or right is _MISSING or left != right:
            return position
    return -1


def exact_match(a: Iterable[Any], b: Iterable[Any]) -> bool:
    """Whether two token sequences (or two strings) are equal in length and in every item."""
    return first_divergence(a, b) == -1


def rouge_l(candidate: str, reference: str) -> float:
    """ROUGE-L F-measure of two texts: the longest common subsequence of words, in [0, 1].

    Words are lower-cased and stemmed by ``rouge_score``, which knows only the letters a-z and the
    digits: text in another script has no words for it and scores 0, unless the two texts are equal,
    which always scores 1.

    Source: Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", 2004. Deviates: the F-measure
    weighs precision and recall alike (beta = 1).
    """
    if candidate == reference:
        return 1.0
    from rouge_score.rouge_scorer import RougeScorer

    return float(RougeScorer(["rougeL"], use_stemmer=True).score(reference, candidate)["rougeL"].fmeasure)


def rouge_l_tokens(candidate: Sequence[Any], reference: Sequence[Any]) -> float:
    """ROUGE-L F-measure of two token sequences, in [0, 1]: for code, whose brackets and operators are no words.

    ``F = 2 P R / (P + R)`` with P and R the length of the longest common subsequence over that of the candidate and of
    the reference. Two empty sequences score 1, an empty one and another 0.

    Source: as :func:`rouge_l`; of token ids as in Sun et al., 2024, arXiv 2401.09964.
    """
    if not candidate or not reference:
        return float(len(candidate) == len(reference))
    # Longest common subsequences of the candidate so far and every beginning of the reference.
    before = [0] * (len(reference) + 1)
    for token in candidate:
        now = [0]
        for place, other in enumerate(reference):
            now.append(before[place] + 1 if token == other else max(now[place], before[place + 1]))
        before = now
    return 2 * before[-1] / (len(candidate) + len(reference))
