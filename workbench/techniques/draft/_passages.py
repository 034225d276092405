"""Passages of a long prompt that its end asks for: what a drafter with a short context reads.

Source
------
Robertson and Zaragoza, The Probabilistic Relevance Framework: BM25 and Beyond, Foundations and Trends in Information
Retrieval, 2009, over token ids instead of words.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

_SATURATION, _LENGTH = 1.2, 0.75


def bm25(query: Sequence[int], passages: Sequence[Sequence[int]]) -> list[float]:
    """Score of every passage for a query: for each different token of the query its rarity among the passages, times
    how often the passage has it, saturating and set against the passage's length."""
    counts = [Counter(passage) for passage in passages]
    mean = sum(map(len, passages)) / max(1, len(passages))
    scores = [0.0] * len(passages)
    for token in dict.fromkeys(query):
        having = sum(token in count for count in counts)
        rarity = math.log(1 + (len(passages) - having + 0.5) / (having + 0.5))
        for place, count in enumerate(counts):
            times = count[token]
            norm = _SATURATION * (1 - _LENGTH + _LENGTH * len(passages[place]) / mean)
            scores[place] += rarity * times * (_SATURATION + 1) / (times + norm)
    return scores


def retrieved_context(prompt: Sequence[int], chunk: int, budget: int, query: int) -> list[int]:
    """A prompt shortened to its first chunk, the chunks that its end asks for, and its end.

    Parameters
    ----------
    prompt : sequence of int
    chunk : int
        Tokens of a passage.
    budget : int
        Most tokens in all; a prompt no longer than this stays whole, and so do its first chunk and its end.
    query : int
        Tokens at the end that ask, and stay.

    Returns
    -------
    list of int
        In the order of the prompt.
    """
    start = max(0, len(prompt) - query)
    if len(prompt) <= budget or start <= chunk:
        return list(prompt)
    passages = [prompt[place : min(place + chunk, start)] for place in range(chunk, start, chunk)]
    scores = bm25(prompt[start:], passages)
    kept, room = [], budget - chunk - (len(prompt) - start)
    for place in sorted(range(len(passages)), key=lambda place: (-scores[place], place)):
        if scores[place] > 0 and len(passages[place]) <= room:
            kept.append(place)
            room -= len(passages[place])
    middle = [token for place in sorted(kept) for token in passages[place]]
    return [*prompt[:chunk], *middle, *prompt[start:]]
