"""What a tokenizer is given: messages in a chat template, a text with its start token once, token ids of one prompt.

For models and tasks alike; a tokenizer is passed in, and neither torch nor transformers is imported.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from workbench.errors import PromptError, words_of

__all__ = ["ChatText", "adds_special_tokens", "check_characters", "prompt_ids", "token_ids", "write_chat"]

_LONGEST = 300  # characters of a template's own complaint


class ChatText(str):
    """A text as a chat template wrote it: it begins where the model expects, so no start token is put before it."""


def write_chat(tokenizer: Any, messages: Sequence[Mapping[str, str]], what: str = "the prompt") -> ChatText:
    """Messages in the tokenizer's chat template, up to where the assistant's answer starts.

    Parameters
    ----------
    tokenizer
        A transformers tokenizer that has a template.
    messages
        Each with ``role`` and ``content``, oldest first.
    what
        Name of the messages in an error.

    Raises
    ------
    PromptError
        The template refuses the messages (many know no system role, or want the roles to alternate), or cannot be run.
    """
    try:
        return ChatText(tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True))
    except MemoryError:
        raise
    except Exception as error:  # a template is foreign code: whatever it raises is its answer
        reason = " ".join(str(error).split()) or type(error).__name__
        reason = reason if len(reason) <= _LONGEST else reason[:_LONGEST] + "…"
        roles = ", ".join(str(message.get("role")) for message in messages[:8]) + ", …" * (len(messages) > 8)
        raise PromptError(
            f"the model's chat template cannot write {what} (roles: {roles}), it says: {reason}. "
            "Change the messages, or give plain text without a template"
        ) from error


def adds_special_tokens(tokenizer: Any, text: str) -> bool:
    """Whether a text that begins here still lacks the tokens that the tokenizer puts before it.

    It lacks none if a chat template wrote it (:class:`ChatText`), nor if it begins with the start token's own text, as
    ``<s>``: a tokenizer reads that as the token whoever wrote it, and no model was trained on two.
    """
    if isinstance(text, ChatText):
        return False
    start = _start(tokenizer)
    if not start:
        return True
    # The beginning is enough, and a long text need not be read twice.
    return _encoded(tokenizer, text[: 64 * len(start)], False)[: len(start)] != start


def check_characters(text: str) -> None:
    """Refuse a text that holds what is no character: a tokenizer would break on it.

    Raises
    ------
    PromptError
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PromptError(
            f"the text holds what is no character at place {error.start} (bytes that are not UTF-8, or half of a "
            "surrogate pair): give it as UTF-8"
        ) from error


def token_ids(tokenizer: Any, text: str, start: bool = True) -> list[int]:
    """Token ids of a text.

    Parameters
    ----------
    tokenizer
        A transformers tokenizer.
    text
    start
        Whether the text begins here, so that it gets the tokens that the tokenizer puts around a text, unless it has
        them (:func:`adds_special_tokens`).

    Raises
    ------
    PromptError
        The text holds what is no character, the tokenizer breaks on it, or there is none.
    """
    if tokenizer is None:
        raise PromptError("the model has no tokenizer, so it takes no text: give the prompt as token ids")
    check_characters(text)
    return _encoded(tokenizer, text, start and adds_special_tokens(tokenizer, text))


def prompt_ids(prompt: Any) -> list[int]:
    """The token ids of one prompt, from a sequence, an array or a tensor of any library; [1, n] is one prompt too.

    Raises
    ------
    PromptError
        They are several prompts, no whole numbers, or no sequence at all.
    """
    if isinstance(prompt, Mapping):
        raise PromptError("a prompt is a text or token ids, not a mapping: of a tokenizer's output give the input_ids")
    ids = prompt.tolist() if hasattr(prompt, "tolist") else prompt
    if isinstance(ids, str | bytes) or not isinstance(ids, Iterable):
        raise PromptError(f"a prompt is a text or a sequence of token ids, not {type(prompt).__name__}")
    ids = list(ids)
    if len(ids) == 1 and _many(ids[0]):
        return prompt_ids(ids[0])
    if any(_many(each) for each in ids):
        raise PromptError(f"here are {len(ids)} prompts at once: give one, or hand the prompts to compare one by one")
    return [_whole(each) for each in ids]


def _encoded(tokenizer: Any, text: str, special: bool) -> list[int]:
    """Token ids, or one line for whatever a tokenizer raises whose files are not what they should be."""
    try:
        return list(tokenizer(text, add_special_tokens=special)["input_ids"])
    except MemoryError:
        raise
    except BaseException as error:
        reason = words_of(error)[:_LONGEST]
        raise PromptError(
            f"the model's tokenizer breaks on the text, it says: {reason}. Take its files anew, or give token ids"
        ) from error


def _many(value: Any) -> bool:
    return getattr(value, "ndim", 0) > 0 or isinstance(value, list | tuple | str | Mapping)


def _whole(value: Any) -> int:
    value = value.item() if hasattr(value, "item") else value
    try:
        if not isinstance(value, bool):
            return operator.index(value)
    except TypeError:
        pass
    raise PromptError(f"token ids are whole numbers, not {type(value).__name__} ({str(value)[:20]})")


def _start(tokenizer: Any) -> list[int]:
    """Tokens that the tokenizer puts before a text by itself."""
    whole, bare = (_encoded(tokenizer, "a", special) for special in (True, False))
    return next((whole[:place] for place in range(len(whole)) if bare and whole[place:][: len(bare)] == bare), [])
