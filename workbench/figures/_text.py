"""Text that comes from models and people, made visible and short enough to draw."""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np
import xarray as xr

from workbench.trace import vocabulary, words

NOTHING = "·"
"""Stands for a token that adds no text, as one that only begins a character."""

_MARKS = {"\n": "⏎", "\r": "␍", "\t": "⇥", " ": "␣"}
_JOINERS = {"\u200c", "\u200d"}  # without a shape of their own, they shape what stands around them
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"}


def visible(text: str, *, spaces: bool = True) -> str:
    """Text with everything that has no shape of its own spelled out.

    A newline is ⏎, a space ␣, a tab ⇥; control and format characters, among them those that turn the reading
    direction, become ``\\u202e`` and the like; an empty text is ∅.

    Parameters
    ----------
    text : str
    spaces : bool
        If False, plain spaces stay as they are, and so do the joiners that many scripts and emoji need (U+200C,
        U+200D): for text to be read, rather than a label.
    """
    if not text:
        return "∅"
    return "".join(_spell(character, spaces) for character in text)


def _spell(character: str, spaces: bool) -> str:
    if not spaces and (character == " " or character in _JOINERS):
        return character
    if character in _MARKS:
        return _MARKS[character]
    if unicodedata.category(character) in _HIDDEN:
        code = ord(character)
        return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
    return character


def shorten(text: str, length: int) -> str:
    """At most ``length`` characters, the last an ellipsis where something was cut."""
    return text if len(text) <= length else text[: max(length - 1, 1)] + "…"


def columns(text: str) -> int:
    """How many columns of a monospaced font a text takes; wide East Asian characters take two."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def flow(
    widths: Sequence[float], groups: Sequence[int], breaks: Sequence[bool], width: float, gap: float = 0.4
) -> tuple[np.ndarray, np.ndarray]:
    """Set pieces one after another in rows, as a paragraph is.

    Parameters
    ----------
    widths : sequence of float
    groups : sequence of int
        Pieces of different groups get a gap between them.
    breaks : sequence of bool
        Whether a new row begins after a piece.
    width : float
        Of a row.

    Returns
    -------
    start, row : array
        Left end and row of each piece.
    """
    start, row = np.zeros(len(widths)), np.zeros(len(widths), dtype=int)
    across, down = 0.0, 0
    for index, wide in enumerate(widths):
        across += gap if across and groups[index] != groups[index - 1] else 0.0
        if across + wide > width or (index and breaks[index - 1]):
            across, down = 0.0, down + 1
        start[index], row[index] = across, down
        across += wide
    return start, row


class Texts(dict[int, str]):
    """Token id -> what it stands for by itself, visible; an id that the trace has no text for is shown as its number.

    A token that is only a part of a character is written as its bytes, ``<0xF0><0x9F>``. Within a text it adds nothing,
    and the token that completes the character adds it whole: :meth:`added`.
    """

    def __init__(self, tree: xr.DataTree):
        super().__init__({number: visible(text) for number, text in vocabulary(tree).items()})
        self._read = words(tree)

    def __missing__(self, number: int) -> str:
        return f"[{number}]"

    def short(self, number: Any, length: int = 24) -> str:
        """The text of a token, cut to ``length`` characters."""
        return shorten(self[int(number)], length)

    def added(self, tokens: xr.Dataset) -> list[str]:
        """What each token adds to the text before it, visible; ``·`` for one that adds nothing."""
        return [visible(text) if text else NOTHING for text in self._read(tokens)]

    def named(self, tokens: xr.Dataset) -> list[str]:
        """Names of the tokens of a text: each by itself, but for one that completes a character, which it then is."""
        alone = [self[int(number)] for number in tokens["id"].values if number >= 0]
        return [
            own if added == NOTHING or own.startswith(added) or own.endswith(added) else added
            for own, added in zip(alone, self.added(tokens))
        ]


def heading(text: str, *notes: str, width: int = 108) -> alt.TitleParams:
    """A title, with notes on what is shown and what was left out under it, folded to ``width`` characters."""
    lines = [line for note in notes if note for line in textwrap.wrap(visible(note, spaces=False), width)]
    return alt.TitleParams(text=visible(text, spaces=False), subtitle=lines)
