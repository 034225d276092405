"""Ending a text at a string: here, where tokens become text, as the decode loop knows tokens alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from workbench.errors import PromptError
from workbench.tokenizing import check_characters

if TYPE_CHECKING:
    from workbench.models.model import Model

_UNFINISHED = "\N{REPLACEMENT CHARACTER}"


class StopText:
    """Policy of the slot ``stop``: the output ends with the token that completes one of the texts.

    Parameters
    ----------
    decode : callable
        Text of token ids.
    texts : sequence of str
    before : int
        The last token before the output: some tokenizers drop the space at the start of what they decode.

    Notes
    -----
    Only as many of the newest tokens are decoded as can hold the longest text: one for each of its bytes.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], texts: Sequence[str], before: int) -> None:
        self._decode, self._texts, self._before = decode, tuple(texts), before
        self._window = max(len(text.encode()) for text in texts) + 1

    def stop(self, generated: Sequence[int]) -> bool:
        start = max(0, len(generated) - self._window)
        # Not within a run of byte tokens, which some tokenizers decode as a whole or not at all.
        while start and any(_UNFINISHED in self._decode([token]) for token in generated[start - 1 : start + 1]):
            start -= 1
        left = [generated[start - 1] if start else self._before]
        newest = [*left, *generated[start:]]
        skipped = len(self._decode(left))
        # Characters that the newest token only begins stand as replacement characters, which are no text yet.
        known = len(self._decode(newest[:-1])[skipped:].rstrip(_UNFINISHED))
        text = self._decode(newest)[skipped:]
        return any(text.find(wanted, max(0, known - len(wanted) + 1)) >= 0 for wanted in self._texts)


def stop_texts(model: Model, texts: str | Sequence[str], before: int) -> tuple[StopText, ...]:
    """The policy of some stop texts, or of one; none of no texts.

    Raises
    ------
    PromptError
        If one is empty or holds what is no character, or the model has no tokenizer.
    """
    texts = [texts] if isinstance(texts, str) else list(texts)
    if not texts:
        return ()
    if not all(isinstance(text, str) and text for text in texts):
        raise PromptError("a stop text must be a text of at least one character")
    for text in texts:
        check_characters(text)
    if model.tokenizer is None:
        raise PromptError(f"{model.name} has no tokenizer, so that no stop text can be found: give stop_tokens")
    return (StopText(model.decode, texts, before),)
