"""Which rotary factors a pass reads its tokens with, where these hang on the length of the text.

Long-rope (Ding et al., 2024, arXiv 2402.13753) has factors for texts up to its original positions and others for longer
ones. Where transformers computes the cache anew between the two, so does the loop: all keys of a cache are rotated with
the same factors, and no pass reads tokens of both. Everywhere else a token is read with the frequencies of the text up
to it, those of a prompt with the frequencies of the whole prompt, and keys stay as they were rotated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from workbench.engine.state import KeyValueCache
from workbench.models import Anatomy
from workbench.models.rotate import Rope

if TYPE_CHECKING:
    from workbench.engine.decoder import Decoder


def ropes(anatomy: Anatomy, cache: KeyValueCache, positions: Tensor, length: int | None, below: int) -> dict[str, Rope]:
    """Tables of the tokens at ``positions``, all of them ``below`` that, which are read as part of a text of ``length``
    tokens; None where each is read as if it came alone."""
    if not anatomy.growing:
        return anatomy.rope(positions, below=below)
    if anatomy.switch is not None:
        return anatomy.rope(positions, cache.read_as, below)
    return anatomy.rope(positions, positions + 1 if length is None else length, below)


def outgrown(decoder: Decoder, length: int) -> bool:
    """Whether a text of ``length`` tokens is read with other factors than those that a decoder's keys were rotated
    with, so that its cache has to be computed anew."""
    cache, switch = decoder.cache, decoder.anatomy.switch
    return switch is not None and cache.length > 0 and (cache.read_as > switch) != (length > switch)


def room(decoder: Decoder, length: int) -> int:
    """Most tokens that one pass may read ahead of a text of ``length`` tokens, so that each is read with the factors
    that it would be read with if it came alone, and reads the others in the form in which it would find them."""
    cache, switch = decoder.cache, decoder.anatomy.switch
    most = decoder.anatomy.positions
    if cache.room is not None:
        most = cache.room if cache.length == length - 1 else 0
    if switch is None or length > switch:
        return 0 if outgrown(decoder, length) else most
    return min(most, switch - length)
