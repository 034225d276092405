"""Text between two tokenizers: the same words as tokens of a drafter, and its continuation as tokens of the model.

Tokens of two vocabularies meet only at some places of the text. Everything up to the last such place that will not move
again is settled and kept; only the tail after it is decoded and encoded anew when text is added.
"""

from __future__ import annotations

import itertools
import re
import weakref
from collections.abc import Sequence
from typing import Any

# What a byte that is not yet a whole character decodes to.
_BROKEN = "\ufffd"
_BYTE = re.compile("<0x([0-9A-F]{2})>")
_BYTES: weakref.WeakKeyDictionary[Any, dict[int, int]] = weakref.WeakKeyDictionary()


class Alignment:
    """The text of a run as a drafter's tokens, kept up as it grows.

    Parameters
    ----------
    main, drafter : transformers.PreTrainedTokenizerFast
    tail : int
        Tokens of the model that stay unsettled at the end, since encoding may still join what follows to them.

    Attributes
    ----------
    settled : int
        Tokens of the model that will not be looked at again.
    """

    def __init__(self, main: Any, drafter: Any, tail: int = 16) -> None:
        self._main, self._drafter, self._tail = main, drafter, tail
        start = drafter("a")["input_ids"][:1]
        self._held = start if start and start[0] == drafter.bos_token_id else []
        self.settled = 0
        self._text = ""
        self._tail_tokens: list[int] = []
        self._last: list[int] = []

    def to_drafter(self, tokens: Sequence[int]) -> list[int] | None:
        """The drafter's tokens for the text of ``tokens``, of which the settled ones stood at the last call; None if
        the text ends within a character."""
        before = list(tokens[self.settled - 1 : self.settled]) if self.settled else []
        self._tail_tokens = list(tokens[self.settled :])
        self._text = decode(self._main, self._tail_tokens, before)
        if self._text.endswith(_BROKEN):
            return None
        encoded = self._drafter(self._text, add_special_tokens=False, return_offsets_mapping=True)
        ids = self._held + encoded["input_ids"]
        self._last = ids[-1:]
        if len(self._tail_tokens) > 2 * self._tail:
            self._settle(before, encoded["input_ids"], [end for _, end in encoded["offset_mapping"]])
        return ids

    def to_main(self, drafted: Sequence[int]) -> list[tuple[int, int]]:
        """Tokens of the model for a continuation by the drafter after the text of the last :meth:`to_drafter`.

        Parameters
        ----------
        drafted : sequence of int
            The drafter's tokens.

        Returns
        -------
        list of (int, int)
            Tokens of the model, and how many of ``drafted`` each needs up to its own end, at least.
        """
        pieces = [decode(self._drafter, drafted[: end + 1], self._last) for end in range(len(drafted))]
        whole = pieces[-1] if pieces else ""
        while whole.endswith(_BROKEN):
            whole = whole[:-1]
        if not whole:
            return []
        tokens, ends = self._continued(whole)
        lengths = [len(piece.rstrip(_BROKEN)) for piece in pieces]
        return [
            (token, 1 + next((place for place, length in enumerate(lengths) if length >= end), len(lengths) - 1))
            for token, end in zip(tokens, ends)
        ]

    def _continued(self, text: str) -> tuple[list[int], list[int]]:
        """Tokens of the model for ``text`` after what there is, and where in ``text`` each ends."""
        count = len(self._tail_tokens)
        encoded = self._main(self._text + text, add_special_tokens=False, return_offsets_mapping=True)
        if encoded["input_ids"][:count] == self._tail_tokens:
            skipped = len(self._text)
            ends = [end - skipped for _, end in encoded["offset_mapping"][count:]]
            return encoded["input_ids"][count:], ends
        # The text so far is not cut as the tokenizer would cut it, or its last word goes on: what is new stands alone.
        encoded = self._main(text, add_special_tokens=False, return_offsets_mapping=True)
        if decode(self._main, encoded["input_ids"], self._tail_tokens[-1:]) != text:
            return [], []
        return encoded["input_ids"], [end for _, end in encoded["offset_mapping"]]

    def _settle(self, before: list[int], encoded: list[int], ends: list[int]) -> None:
        """Move the settled part forward, to before a space where tokens of both end."""
        for count in range(len(self._tail_tokens) - self._tail, 0, -1):
            head = decode(self._main, self._tail_tokens[:count], before)
            fresh = self._text[len(head) : len(head) + 1].isspace() and not head[-1:].isspace()
            if fresh and self._text.startswith(head) and len(head) in ends:
                # Of the tokens of one character all end where it ends.
                last = max(place for place, end in enumerate(ends) if end == len(head))
                self._held = self._held + encoded[: last + 1]
                self.settled += count
                self._tail_tokens = self._tail_tokens[count:]
                self._text = self._text[len(head) :]
                return


def decode(tokenizer: Any, tokens: Sequence[int], before: Sequence[int] = ()) -> str:
    """Text of tokens that stand after others, with the space that some tokenizers drop at a beginning; special tokens
    have none.

    Tokens that are single bytes (``<0xE4>``) are read as the bytes they are, so that a character is there as soon as
    its last byte is. Tokenizers themselves give up a whole run of them for one byte that is out of place, and the text
    before a token would change with what comes after it.
    """
    values = byte_values(tokenizer)
    if not values:
        return _decoded(tokenizer, tokens, before)
    text, last = [], list(before)
    for single, group in itertools.groupby(tokens, values.__contains__):
        run = list(group)
        text.append(
            bytes(values[token] for token in run).decode("utf-8", "replace")
            if single
            else _decoded(tokenizer, run, last)
        )
        last = run[-1:]
    return "".join(text)


def byte_values(tokenizer: Any) -> dict[int, int]:
    """Tokens that stand for one byte each, where the tokenizer falls back to bytes; else none."""
    known = _BYTES.get(tokenizer)
    if known is None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        known = {}
        if backend is not None and "ByteFallback" in repr(backend.decoder):
            matches = ((token, _BYTE.fullmatch(text)) for text, token in tokenizer.get_vocab().items())
            known = {token: int(match[1], 16) for token, match in matches if match}
        _BYTES[tokenizer] = known
    return known


def _decoded(tokenizer: Any, tokens: Sequence[int], before: Sequence[int]) -> str:
    options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
    head = tokenizer.decode(list(before), **options) if before else ""
    return tokenizer.decode([*before, *tokens], **options)[len(head) :]
