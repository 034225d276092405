"""Settings that everybody has who reads a layer through a lens, and which layers they name."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from workbench.settings import outside

LensName = Annotated[str, outside("lens", "lens: bundled, logit, untrained, or a file", min_length=1)]
"""What :func:`workbench.parts.exits.load_lens` takes."""

Vocabulary = Annotated[int, Field(ge=0, le=1_000_000, description="most frequent tokens that a look is at; 0: all")]
"""What :meth:`workbench.parts.exits.Lens.head` takes."""


def checked_layers(layers: int, first: float, every: int) -> range:
    """Layers of ``layers`` after which a token may leave: from a share of the depth on, every so many, not the last."""
    return range(max(1, round(first * layers)) - 1, layers - 1, every)
