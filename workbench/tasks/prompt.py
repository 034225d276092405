"""What a prompt is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from workbench.errors import PromptError

__all__ = ["CONTINUED_TASKS", "Prompt"]

# A model continues the text of these tasks; every other task asks for an answer to a message.
CONTINUED_TASKS = frozenset({"code_completion", "humaneval", "needle"})


@dataclass(frozen=True)
class Prompt:
    """One prompt of a task.

    Attributes
    ----------
    id
        Unique within its file.
    prompt
        The text: a user's message, or, where `chat` is false, the text to be continued.
    reference
        A good answer, or the true continuation; None where there is none. Further wordings that count as well stand in
        the metadata's ``answers``.
    task
        Name of the task; it chooses the scorer (`workbench.tasks.score`).
    chat
        Whether the text is a message to be put into the tokenizer's chat template.
    metadata
        What the scorers and the reader may want to know: source, licence, accepted answers, languages. Of a
        conversation (`workbench.tasks.conversation`): ``turns``, all that the user says in it, and
        ``earlier_messages``, what was said before this prompt, each with a ``role`` and a ``content``.
    question_at
        Place in the text where the question begins; what stands before it is the context, which a cache technique can
        be made to compress before the question is read. None where the text has no such parts. A prompts file has the
        two parts apart, as ``context`` and ``prompt``.
    """

    id: str
    prompt: str
    reference: str | None = None
    task: str = "chat"
    chat: bool = True
    metadata: Mapping[str, Any] = field(default_factory=dict, hash=False)
    question_at: int | None = None

    def __post_init__(self) -> None:
        if self.question_at is not None and not (
            0 < self.question_at < len(self.prompt) and self.context.strip() and self.prompt[self.question_at :].strip()
        ):
            raise PromptError(
                f"prompt {self.id!r} of {len(self.prompt):,} characters has no context before its question_at "
                f"{self.question_at}, or no question behind it"
            )

    @property
    def context(self) -> str:
        """The text before the question; empty where there is no such part."""
        return self.prompt[: self.question_at or 0]

    def as_record(self) -> dict[str, Any]:
        """The prompt as the plain dictionary that one line of a prompts file holds."""
        record: dict[str, Any] = {"id": self.id, "task": self.task}
        if self.question_at is not None:
            record["context"] = self.context
        record["prompt"] = self.prompt[self.question_at or 0 :]
        if self.reference is not None:
            record["reference"] = self.reference
        if self.chat != (self.task not in CONTINUED_TASKS):
            record["chat"] = self.chat
        if self.metadata:
            record["metadata"] = dict(self.metadata)
        return record
