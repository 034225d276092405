"""Two drafts verified at once."""

from __future__ import annotations

from workbench.engine import Draft


def merged(first: Draft, second: Draft) -> Draft:
    """One tree of both; beginnings that they share stand in it once.

    Parameters
    ----------
    first, second : Draft
        Chosen without chance, without lookahead rows, and with no hold on the verifying pass. Siblings are tried in
        this order.

    Returns
    -------
    Draft
        A node of both has the larger confidence; no confidence at all where one of them gives none.

    Raises
    ------
    ValueError
        If one was drawn by chance (which of them a token came from would decide how it must be accepted), has
        lookahead rows, or looks at the verifying pass or holds it.
    """
    places: dict[tuple[int, int], int] = {}
    confidence: list[float] = []
    for draft in (first, second):
        if draft.by_chance or draft.ahead is not None or draft.looks or draft.paused is not None:
            raise ValueError("drafts drawn by chance, with lookahead rows or with a pass cannot be merged")
        own = {-1: -1}
        for node, token in enumerate(draft.tokens):
            key = own[draft.parent(node)], token
            own[node] = places.setdefault(key, len(places))
            chance = 0.0 if draft.confidence is None else draft.confidence[node]
            if own[node] == len(confidence):
                confidence.append(chance)
            confidence[own[node]] = max(confidence[own[node]], chance)
    known = first.confidence is not None and second.confidence is not None
    return Draft(
        [token for _, token in places],
        [parent for parent, _ in places],
        flops=first.flops + second.flops,
        bytes=first.bytes + second.bytes,
        confidence=confidence if known else None,
    )
