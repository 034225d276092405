"""Conversations: each turn of the user follows the model's own answers to the turns before it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from workbench.errors import PromptError
from workbench.tasks.encoding import encode_prompt
from workbench.tasks.prompt import Prompt

__all__ = ["greedy_answer", "next_turn", "unroll"]


def next_turn(prompt: Prompt, answer: str) -> Prompt | None:
    """The user's next turn, after the model has answered this one.

    Parameters
    ----------
    prompt
        A turn of a conversation: its metadata's ``turns`` are all that the user says, and this prompt's text is one.
    answer
        What the model said to it. Space around it is dropped.

    Returns
    -------
    Prompt or None
        With ``/turn-2`` and so on after the conversation's id, what was said so far in the metadata's
        ``earlier_messages`` (`workbench.tasks.encode_prompt` puts it into the chat template), and the turn's own
        reference where the metadata's ``references`` has one (of several wordings the first, with the others as its
        ``answers``). None after the last turn, and where there is no
        conversation.
    """
    earlier = prompt.metadata.get("earlier_messages", [])
    number = len(earlier) // 2 + 1
    turns = _texts(prompt.metadata.get("turns"))
    if turns[number - 1 : number] != [prompt.prompt] or len(turns) == number:
        return None
    messages = [
        *earlier,
        {"role": "user", "content": prompt.prompt},
        {"role": "assistant", "content": answer.strip()},
    ]
    reference, *answers = _wordings(prompt.metadata.get("references"), number) or [None]
    metadata = {name: value for name, value in prompt.metadata.items() if name != "answers"}
    if answers:
        metadata["answers"] = answers
    return replace(
        prompt,
        id=f"{prompt.id.removesuffix(f'/turn-{number}')}/turn-{number + 1}",
        prompt=turns[number],
        reference=reference,
        metadata={**metadata, "earlier_messages": messages},
        question_at=None,
    )


def unroll(prompts: Iterable[Any], answer: Callable[[Prompt], str]) -> list[Any]:
    """Every turn of every conversation, in order; prompts without further turns stay as they are.

    A technique is then compared on the same text as its baseline at every turn, which it would not be if each answered
    its own earlier answers.

    Parameters
    ----------
    prompts
        Prompts, or anything else that `workbench.compare` takes.
    answer
        Gives the answer that the next turn follows (`greedy_answer`). It is not asked for last turns.
    """
    unrolled = []
    for prompt in prompts:
        unrolled.append(prompt)
        while isinstance(prompt, Prompt) and next_turn(prompt, "") is not None:
            prompt = next_turn(prompt, answer(prompt))
            unrolled.append(prompt)
    return unrolled


def greedy_answer(model: Any, max_new_tokens: int = 256) -> Callable[[Prompt], str]:
    """A function that answers a prompt as the model does by itself: greedily, with no technique, up to a stop token.

    Parameters
    ----------
    model : Model
        As `workbench.load` gives it.
    max_new_tokens
        At most so many tokens for an answer.

    Raises
    ------
    PromptError
        From the function: the model has no tokenizer, or the conversation has grown beyond its positions.
    """

    def answer(prompt: Prompt) -> str:
        from workbench.engine.generate import generate

        if model.tokenizer is None:
            raise PromptError(f"{model.name} has no tokenizer, so it cannot go on with conversation {prompt.id!r}")
        ids = encode_prompt(model.tokenizer, prompt)
        tokens = [token for step in generate(model, ids, max_new_tokens=max_new_tokens) for token in step.tokens]
        return model.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    return answer


def _wordings(references: Any, turn: int) -> list[str]:
    """Accepted answers to a turn, of which a user's own metadata may hold something else."""
    if not isinstance(references, list) or turn >= len(references):
        return []
    one = references[turn]
    return [text for text in _texts([one] if isinstance(one, str) else one) if text.strip()]


def _texts(value: Any) -> list[str]:
    """A list of texts; empty for anything else, which a user's own metadata may hold under the same name."""
    return value if isinstance(value, list) and all(isinstance(text, str) for text in value) else []
