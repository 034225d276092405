"""What a model is given for a prompt: the chat template, and the messages of the conversation so far."""

from __future__ import annotations

from typing import Any

from workbench.errors import PromptError
from workbench.tasks.prompt import Prompt
from workbench.tokenizing import ChatText, adds_special_tokens, check_characters, token_ids, write_chat

__all__ = ["CONTEXT_FIRST", "QUESTION_SEEN", "encode_parts", "encode_prompt", "format_prompt", "question_view"]

CONTEXT_FIRST, QUESTION_SEEN = "compressed before the question", "with the question seen"


def format_prompt(tokenizer: Any, prompt: Prompt, *, chat: bool | None = None) -> str:
    """The text a model is given for a prompt.

    A chat prompt is put as the user's message into the tokenizer's chat template, after the earlier messages of
    its conversation if there are any, up to where the assistant's answer starts. A prompt to be continued, and any
    prompt with a tokenizer that has no template (a base model), stays as it is; there the earlier messages stand
    before it, with an empty line after each.

    Parameters
    ----------
    tokenizer
        A transformers tokenizer.
    prompt
        The prompt.
    chat
        Overrules the prompt's own ``chat``.

    Raises
    ------
    PromptError
        The metadata's ``earlier_messages`` are not messages, or the chat template cannot write them.
    """
    messages = [*_earlier_messages(prompt), {"role": "user", "content": prompt.prompt}]
    if not _takes_template(tokenizer, prompt, chat):
        return "\n\n".join(message["content"] for message in messages)
    return write_chat(tokenizer, messages, f"prompt {prompt.id!r}")


def encode_prompt(tokenizer: Any, prompt: Prompt, *, chat: bool | None = None) -> list[int]:
    """Token ids of `format_prompt`; special tokens are added only where the text does not have them already.

    Raises
    ------
    PromptError
        As `format_prompt`; or the text holds what is no character; or there is no tokenizer.
    """
    if tokenizer is None:
        raise PromptError("this model has no tokenizer: give its prompts as token ids")
    return token_ids(tokenizer, _whole(tokenizer, prompt, chat))


def encode_parts(tokenizer: Any, prompt: Prompt, *, chat: bool | None = None) -> tuple[list[int], int | None]:
    """`encode_prompt`, and how many of the tokens are the context: those before the question.

    The text is tokenised once, as a whole, so that the tokens are those of `encode_prompt`; a token that holds the end
    of the context and the beginning of the question belongs to the question. Of a chat template what it writes before
    the context belongs to the context, what it writes after the question to the question.

    Returns
    -------
    list of int, int or None
        None where the prompt has no such parts.

    Raises
    ------
    PromptError
        The tokenizer cannot say where its tokens stand (it is not a fast one), the template does not write the message
        as it is, or no whole token stands before the question.
    """
    if prompt.question_at is None:
        return encode_prompt(tokenizer, prompt, chat=chat), None
    if not getattr(tokenizer, "is_fast", False):
        raise PromptError(
            f"prompt {prompt.id!r} has a context, whose end only a fast tokenizer can find: ask with the question seen "
            "(context_tokens=None, --question-seen)"
        )
    text = _whole(tokenizer, prompt, chat)
    check_characters(text)
    question = _question_at(text, prompt)
    special = adds_special_tokens(tokenizer, text)
    encoded = tokenizer(text, add_special_tokens=special, return_offsets_mapping=True)
    context = next(place for place, (_, end) in enumerate(encoded["offset_mapping"]) if end > question)
    if context == 0:
        raise PromptError(f"the context of prompt {prompt.id!r} fills no whole token")
    return list(encoded["input_ids"]), context


def question_view(*context_tokens: int | None) -> str:
    """Whether caches were compressed before the question was read, or with it in sight, over some prompts."""
    first = sum(each is not None for each in context_tokens)
    if 0 < first < len(context_tokens):
        return f"{CONTEXT_FIRST} in {first} of {len(context_tokens)} prompts, {QUESTION_SEEN} in the others"
    return CONTEXT_FIRST if first else QUESTION_SEEN


def _question_at(text: str, prompt: Prompt) -> int:
    """Where the question begins in a text made of a prompt; a template may strip what stands around the message."""
    for message, cut in ((prompt.prompt, 0), (prompt.prompt.strip(), len(prompt.prompt) - len(prompt.prompt.lstrip()))):
        if (start := text.rfind(message)) >= 0:
            return start + prompt.question_at - cut
    raise PromptError(f"the chat template changes the text of prompt {prompt.id!r}, so its question cannot be found")


def _whole(tokenizer: Any, prompt: Prompt, chat: bool | None) -> str:
    """`format_prompt`, known as a template's work also where the prompt itself was written with one."""
    text = format_prompt(tokenizer, prompt, chat=chat)
    return ChatText(text) if prompt.metadata.get("templated") else text


def _earlier_messages(prompt: Prompt) -> list[dict[str, str]]:
    messages = prompt.metadata.get("earlier_messages", [])
    if not isinstance(messages, list) or not all(
        isinstance(message, dict)
        and message.get("role") in ("system", "user", "assistant")
        and isinstance(message.get("content"), str)
        for message in messages
    ):
        raise PromptError(
            f"the earlier_messages of prompt {prompt.id!r} are not a list of objects with role and content"
        )
    return messages


def _takes_template(tokenizer: Any, prompt: Prompt, chat: bool | None) -> bool:
    wanted = prompt.chat if chat is None else chat
    return wanted and getattr(tokenizer, "chat_template", None) is not None
