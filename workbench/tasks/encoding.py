"""What a model is given for a prompt: the chat template, and the messages of the conversation so far."""

from __future__ import annotations

from typing import Any

from workbench.errors import PromptError
from workbench.tasks.prompts import Prompt

__all__ = ["encode_prompt", "format_prompt"]


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
        The metadata's ``earlier_messages`` are not messages.
    """
    messages = [*_earlier_messages(prompt), {"role": "user", "content": prompt.prompt}]
    if not _takes_template(tokenizer, prompt, chat):
        return "\n\n".join(message["content"] for message in messages)
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def encode_prompt(tokenizer: Any, prompt: Prompt, *, chat: bool | None = None) -> list[int]:
    """Token ids of `format_prompt`; special tokens are added only where no template has written them already."""
    templated = _takes_template(tokenizer, prompt, chat) or bool(prompt.metadata.get("templated"))
    text = format_prompt(tokenizer, prompt, chat=chat)
    return list(tokenizer(text, add_special_tokens=not templated)["input_ids"])


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
