"""How likely drafted tokens are kept, learned from what became of earlier drafts.

Source
------
The moving rate: Liu et al., SmartSpec, 2024, arXiv 2406.14066, and its authors' code, which starts from 0.7.
"""

from __future__ import annotations

from collections.abc import Sequence

from workbench.engine import Draft


class CalibratedRate:
    """The chance that a node is kept if its parent is, by what the drafter said of it or else by its depth; and the
    chance that any node of a level is kept if one of the level above is."""

    _PRIOR = 6.0

    def __init__(self) -> None:
        self._seen: dict[tuple[str, int], float] = {}
        self._kept: dict[tuple[str, int], float] = {}

    def of(self, depth: int, confidence: float | None) -> float:
        known = confidence is not None
        return self._share(self._key(depth, confidence), confidence if known else 0.7)

    def of_level(self, depth: int) -> float:
        return self._share(("level", min(depth, 16)), 0.7)

    def saw(self, draft: Draft, path: Sequence[int]) -> None:
        kept, depths = set(path), draft.depths()
        for node, depth in enumerate(depths):
            parent = draft.parent(node)
            if parent >= 0 and parent not in kept:
                continue
            confidence = None if draft.confidence is None else draft.confidence[node]
            for key in {self._key(depth, confidence), self._key(depth, None)}:
                self._count(key, node in kept)
        for depth in range(1, min(max(depths, default=0), 1 + len(path)) + 1):
            self._count(("level", min(depth, 16)), depth <= len(path))

    def _share(self, key: tuple[str, int], guess: float) -> float:
        return (self._PRIOR * guess + self._kept.get(key, 0.0)) / (self._PRIOR + self._seen.get(key, 0.0))

    def _count(self, key: tuple[str, int], kept: bool) -> None:
        self._seen[key] = 0.95 * self._seen.get(key, 0.0) + 1.0
        self._kept[key] = 0.95 * self._kept.get(key, 0.0) + kept

    @staticmethod
    def _key(depth: int, confidence: float | None) -> tuple[str, int]:
        return ("depth", min(depth, 16)) if confidence is None else ("said", min(9, int(10 * confidence)))


class MovingRate:
    """SmartSpec's one acceptance rate, the same at every depth."""

    _FADE = 0.9

    def __init__(self) -> None:
        self._rate = 0.7

    def of_level(self, depth: int) -> float:
        return self._rate

    def saw(self, draft: Draft, path: Sequence[int]) -> None:
        if draft.tokens:
            self._rate += (1 - self._FADE) * (len(path) / max(draft.depths()) - self._rate)
