"""The longest suffix of a text that stood in it before, kept up token by token.

Source
------
Blumer et al., The smallest automaton recognizing the subwords of a text, 1985; for drafting: Hu et al., SAM Decoding:
Speculative Decoding via Suffix Automaton, 2024, arXiv 2411.10666.
"""

from __future__ import annotations

from collections.abc import Iterable

_WALK = 32


class SuffixAutomaton:
    """All substrings of a growing text as states; appending a token takes constant time on average.

    A state stands for substrings that end at the same places. It knows the length of the longest of them, the state of
    their longest suffix that ends at other places too (its link), how they go on, and where they ended last.

    Attributes
    ----------
    text : list of int
    repeated : (int, int)
        Length of the longest suffix that stood in the text before, and where an earlier occurrence ended (the place of
        the token that followed it), the latest one known; (0, 0) if there is none.
    """

    def __init__(self, text: Iterable[int] = ()) -> None:
        self.text: list[int] = []
        self.repeated = (0, 0)
        self._next: list[dict[int, int]] = [{}]
        self._link, self._length, self._ended = [-1], [0], [0]
        self._last = 0
        for token in text:
            self.append(token)

    @classmethod
    def closed(cls, text: Iterable[int]) -> SuffixAutomaton:
        """Of a text that goes on no more: all substrings but those that stand at its very end alone, which nothing
        follows, so that every place :meth:`ended` names is one of ``text``."""
        tokens = list(text)
        automaton = cls(tokens[:-1])
        automaton.text = tokens
        return automaton

    def append(self, token: int) -> None:
        """Add a token at the end."""
        self.text.append(token)
        following, link, length = self._next, self._link, self._length
        new = self._state({}, 0, length[self._last] + 1, len(self.text))
        at = self._last
        while at >= 0 and token not in following[at]:
            following[at][token] = new
            at = link[at]
        if at >= 0:
            there = following[at][token]
            if length[there] != length[at] + 1:
                # Only the shorter substrings of ``there`` end here as well: they become a state of their own.
                copy = self._state(dict(following[there]), link[there], length[at] + 1, self._ended[there])
                while at >= 0 and following[at].get(token) == there:
                    following[at][token] = copy
                    at = link[at]
                link[there] = there = copy
            link[new] = there
        self._last = new
        suffix = link[new]
        self.repeated = (length[suffix], self._ended[suffix]) if suffix > 0 else (0, 0)
        # Its suffixes ended here last, now. The walk is bounded, so very short ones may keep an older place.
        for _ in range(_WALK):
            if suffix <= 0:
                break
            self._ended[suffix] = len(self.text)
            suffix = link[suffix]

    def advance(self, state: int, matched: int, token: int) -> tuple[int, int]:
        """From a match (state, length) of another text's suffix to the longest match once ``token`` follows it."""
        while state and token not in self._next[state]:
            state = self._link[state]
            matched = self._length[state]
        if token not in self._next[state]:
            return 0, 0
        return self._next[state][token], matched + 1

    def ended(self, state: int) -> int:
        """Where the substrings of a state ended last: the place of the token after them."""
        return self._ended[state]

    def _state(self, following: dict[int, int], link: int, length: int, ended: int) -> int:
        self._next.append(following)
        self._link.append(link)
        self._length.append(length)
        self._ended.append(ended)
        return len(self._link) - 1
