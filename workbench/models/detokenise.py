"""Text out of tokens as they come: each token gives the text that it adds, and a character is shown once, whole.

Decoding tokens one by one and joining the results is wrong for nearly every tokenizer: a character may be spread over
several tokens, byte tokens are decoded by the run, and a leading space is dropped at the start of what is decoded. So a
token is decoded together with those before it, as serving engines do (prefix and read offsets, as in Text Generation
Inference and vLLM), and what it adds is the difference.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any

__all__ = ["Detokeniser", "label", "pieces"]

_BROKEN = "\N{REPLACEMENT CHARACTER}"
_CHARACTER = 4  # bytes at most, so that it is spread over as many tokens at most
_OPEN = 16  # tokens after which a place to cut is looked for
_HELD = 64  # tokens after which it is cut anywhere
_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")


class Detokeniser:
    """Text of a stream of tokens, token by token.

    The texts given out, joined, are ``decode`` of all the tokens. A token that only begins a character gives an empty
    text and the one that completes it the character; what never is completed comes as U+FFFD, as ``decode`` gives it,
    with the next whole character or with :meth:`flush`. There is one exception: some tokenizers decode a run of byte
    tokens as a whole or not at all, so that a broken one loses characters that were whole and had been shown. They
    stay, and only the rest of the run is broken.

    Parameters
    ----------
    decode : callable
        Text of token ids, such as :meth:`workbench.models.Model.decode`.

    Notes
    -----
    ``decode`` sees the tokens since the last place where characters and tokens ended together, and those of the last
    text before it: a few, so that the cost is linear in the text.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._single: dict[int, str] = {}
        self._context: list[int] = []  # [prefix offset, read offset)
        self._pending: list[int] = []  # [read offset, end)
        self._known = ""  # what was given out of the text of both

    def add(self, token: int) -> str:
        """The text that one more token adds; empty while a character is incomplete."""
        self._pending.append(token)
        text = self._text([*self._context, *self._pending])
        if not text.startswith(self._known):
            return self._parted(text)
        new = text[len(self._known) :]
        whole = new.rstrip(_BROKEN)
        self._known += whole
        if whole == new:
            self._settle(len(self._pending))
        elif len(self._pending) >= _OPEN:
            whole += self._cut(text)
        return whole

    def flush(self) -> str:
        """What is left at the end: incomplete characters, as U+FFFD."""
        if not self._pending:
            return ""
        text = self._text([*self._context, *self._pending])
        left = text[len(self._known) :] if text.startswith(self._known) else self._text(self._pending)
        self._settle(len(self._pending))
        return left

    def _parted(self, text: str) -> str:
        """After a run of byte tokens broke: text given out before is not in the new text."""
        if text.endswith(_BROKEN) and len(self._pending) < _CHARACTER:
            return ""
        text = self._text(self._pending)
        whole = text.rstrip(_BROKEN) if len(self._pending) < _CHARACTER else text
        if whole == text:
            self._settle(len(self._pending))
            return text
        return ""

    def _cut(self, text: str) -> str:
        """Forget tokens whose text cannot change any more, and give out what is broken for good."""
        for kept in range(_CHARACTER - 1, 0, -1):  # where a token's end is a character's end too
            head = self._text([*self._context, *self._pending[:-kept]])
            tail = self._text(self._pending[-kept:])
            if head.startswith(self._known) and head + tail == text:
                given = head[len(self._known) :]
                self._settle(len(self._pending) - kept)
                return given
        # Every token ends one character and begins the next: what is before the last few is not needed for these.
        left, window = text[len(self._known) :], self._pending[-_OPEN // 2 :]
        tail = self._text(window)
        if tail.endswith(left) and tail != left:
            self._context, self._pending, self._known = [], window, tail.removesuffix(left)
        elif len(self._pending) >= _HELD:
            self._settle(len(self._pending))
            return left
        return ""

    def _settle(self, count: int) -> None:
        """Make the first of the pending tokens the context of what follows."""
        done, self._pending = self._pending[:count], self._pending[count:]
        if self._text(done):
            self._context = done
        elif not self._text(self._context):
            # Still before the first text, where an empty token may matter: it can be a space that only the start drops.
            self._context = [*self._context, *done][: 2 * _CHARACTER]
        self._known = self._text(self._context)

    def _text(self, tokens: Sequence[int]) -> str:
        if len(tokens) != 1:
            return self._decode(tokens) if tokens else ""
        if tokens[0] not in self._single:
            self._single[tokens[0]] = self._decode(tokens)
        return self._single[tokens[0]]


def pieces(decode: Callable[[Sequence[int]], str], tokens: Iterable[int]) -> list[str]:
    """The text that each token adds (see :class:`Detokeniser`); what is incomplete at the end goes to the last one."""
    stream = Detokeniser(decode)
    texts = [stream.add(token) for token in tokens]
    if texts:
        texts[-1] += stream.flush()
    return texts


def label(tokenizer: Any, token: int, decode: Callable[[Sequence[int]], str]) -> str:
    """What one token stands for within a text: its leading space is kept, and bytes that are no character are written
    as SentencePiece writes them, ``<0xE4><0xBD>``.

    Parameters
    ----------
    tokenizer
        A transformers tokenizer.
    token
    decode
        Text of token ids.
    """
    text = decode([token])
    if _BROKEN in text:
        name = str(tokenizer.convert_ids_to_tokens(token))
        if _BYTE.fullmatch(name):
            return f"<0x{int(name[3:5], 16):02X}>"
        if (raw := _bytes(name)) is not None:
            spelt = raw.decode("utf-8", "surrogateescape")
            return "".join(f"<0x{ord(c) - 0xDC00:02X}>" if 0xDC80 <= ord(c) <= 0xDCFF else c for c in spelt)
    # Behind another token no space is dropped; doubled, it is seen whether one is.
    twice = decode([token, token])
    return twice[len(text) :] if twice.startswith(text) else text


def _bytes(name: str) -> bytes | None:
    """The bytes of a token's name in the alphabet of byte-level tokenizers; None if it is not written in that."""
    try:
        return bytes(_alphabet()[character] for character in name)
    except KeyError:
        return None


@cache
def _alphabet() -> dict[str, int]:
    """Character -> byte, as GPT-2 writes bytes: those with a shape of their own as they are, the others from U+0100."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(0x100) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(0x100 + place): byte for place, byte in enumerate(hidden)}
