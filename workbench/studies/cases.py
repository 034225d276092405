"""Prompts as a study takes them: text, token ids, task prompts or plain tables, each with an id."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from workbench.engine.options import check_context
from workbench.errors import PromptError
from workbench.models import Model
from workbench.tasks import Prompt, encode_parts, encode_prompt, question_view, score

_SHOWN = 20_000  # characters of a prompt that a study keeps


@dataclass(frozen=True)
class Case:
    """One prompt of a study.

    Attributes
    ----------
    id, task : str
        ``task`` is empty for a bare text.
    tokens : list of int
        What the model is given.
    category : str
        Within or across tasks, as Spec-Bench's; empty where the prompt has none.
    source : Prompt or None
        Where there is a reference to score against.
    context_tokens : int or None
        First tokens that are compressed before the rest, the question, is read.
    """

    id: str
    task: str
    tokens: list[int]
    source: Prompt | None = None
    category: str = ""
    context_tokens: int | None = None

    def score(self, answer: str) -> float:
        """The task's own score of an answer, in [0, 1]; NaN without a reference."""
        return float("nan") if self.source is None else score(answer, self.source)

    def record(self, model: Model) -> dict[str, Any]:
        """What a study keeps of it, for JSON."""
        text = model.decode(self.tokens)
        shown = text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
        category = {"category": self.category} if self.category else {}
        return {
            "id": self.id,
            "task": self.task,
            **category,
            "tokens": len(self.tokens),
            "context_tokens": self.context_tokens,
            "question": question_view(self.context_tokens),
            "text": shown,
        }


def cases(model: Model, prompts: Iterable[Any], context_tokens: int | str | None = "marked") -> list[Case]:
    """Encode every prompt.

    Parameters
    ----------
    model : Model
    prompts : iterable
        Each a text, which is given to the model as it is; token ids; a :class:`workbench.tasks.Prompt` or an object or
        mapping with ``prompt`` and optionally ``id``, ``reference``, ``task``, ``category``, ``chat``, ``metadata``
        (where a category may stand too) and the ``context`` that stands before it, which goes into the model's chat
        format where its task asks for that.
    context_tokens : int, "marked" or None
        See :func:`workbench.compare`.

    Raises
    ------
    PromptError
        If there are none, one cannot be encoded or has no such context (its id is named), or two have the same id.
    """
    if isinstance(context_tokens, str) and context_tokens != "marked":
        raise PromptError(f"context_tokens is a number, 'marked' or None, not {context_tokens!r}")
    if isinstance(prompts, str | Mapping | Prompt):
        prompts = [prompts]
    cases: dict[str, Case] = {}
    for place, prompt in enumerate(prompts):
        name = str(_field(prompt, "id") or f"prompt-{place + 1}")
        if name in cases:
            raise PromptError(f"two prompts have the id {name!r}: ids must differ")
        try:
            cases[name] = _case(model, name, prompt, context_tokens)
            check_context(cases[name].context_tokens, len(cases[name].tokens))
        except PromptError as error:
            raise PromptError(f"prompt {name}: {error}") from error
    if not cases:
        raise PromptError("there are no prompts: give at least one")
    return list(cases.values())


def _case(model: Model, name: str, prompt: Any, context_tokens: int | str | None) -> Case:
    marked = context_tokens == "marked"
    context = None if marked else context_tokens
    text = _field(prompt, "prompt")
    if text is None:
        if isinstance(prompt, Mapping):
            raise PromptError("the field 'prompt' is missing")
        return Case(name, "", model.encode(prompt), context_tokens=context)
    source = prompt if isinstance(prompt, Prompt) else _task_prompt(name, text, prompt)
    if isinstance(text, str) and text.strip() and model.tokenizer is not None:
        if marked:
            text, context = encode_parts(model.tokenizer, source)
        else:
            text = encode_prompt(model.tokenizer, source)
    category = _field(prompt, "category") or source.metadata.get("category") or ""
    scored = source if source.reference is not None else None
    return Case(name, source.task, model.encode(text), scored, str(category), context)


def _task_prompt(name: str, text: Any, prompt: Any) -> Prompt:
    reference, task = _field(prompt, "reference"), str(_field(prompt, "task") or "chat")
    if reference is not None and not isinstance(reference, str):
        raise PromptError(f"'reference' must be text, not {type(reference).__name__}")
    context, text = _field(prompt, "context") or "", text if isinstance(text, str) else ""
    if not isinstance(context, str):
        raise PromptError(f"'context' must be text, not {type(context).__name__}")
    metadata = _field(prompt, "metadata") or {}
    if not isinstance(metadata, Mapping):
        raise PromptError(f"'metadata' must be a mapping, not {type(metadata).__name__}")
    made = Prompt(name, context + text, reference, task, metadata=metadata, question_at=len(context) or None)
    chat = _field(prompt, "chat")
    if chat is None:
        # A record names its chat format only where that is not the task's own.
        chat = "chat" not in made.as_record()
    return replace(made, chat=bool(chat))


def _field(prompt: Any, name: str, default: Any = None) -> Any:
    if isinstance(prompt, Mapping):
        return prompt.get(name, default)
    return default if isinstance(prompt, str | list | tuple) else getattr(prompt, name, default)
