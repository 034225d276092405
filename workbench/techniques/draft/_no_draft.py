"""A draft policy that drafts nothing."""

from __future__ import annotations

from collections.abc import Sequence

from workbench.engine import Draft, Verification


class NoDraft:
    """What a drafting technique starts at its neutral setting: no trained part is needed for it."""

    def propose(self, tokens: Sequence[int], limit: int) -> Draft:
        return Draft()

    def verified(self, verification: Verification) -> None:
        pass
