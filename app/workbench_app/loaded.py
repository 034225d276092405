"""Models that the page has loaded, shared by all visitors, and prompts made ready for them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import replace
from functools import cache
from typing import Any

import workbench as wb
from workbench.errors import PromptError, SettingError
from workbench_app.memory import check_memory
from workbench_app.offers import LONGEST_NAME, OFFERED

DTYPES = ("float32", "bfloat16")
MOST_CHARACTERS = 200_000
MOST_TOKENS = 32_768
MOST_NEW_TOKENS = 512
_KEPT = 2


class Models:
    """Models by name and number format: loaded one at a time, the last ones kept."""

    def __init__(self) -> None:
        self._models: OrderedDict[tuple[str, str], Any] = OrderedDict()
        self._lock = threading.Lock()

    def holds(self, name: str, dtype: str) -> bool:
        """Whether a model is at hand without loading."""
        return (name, dtype) in self._models

    def items(self) -> list[tuple[tuple[str, str], Any]]:
        """What is at hand, by name and number format."""
        return list(self._models.items())

    def put(self, name: str, dtype: str, model: Any) -> None:
        """Keep a model that is already in memory."""
        self._models[name, dtype] = model
        self._models.move_to_end((name, dtype))
        while len(self._models) > _KEPT:
            self._models.popitem(last=False)

    def get(self, name: str, dtype: str) -> Any:
        """The model, loaded and warmed up if it is not at hand.

        Raises
        ------
        SettingError, ModelError
        """
        name = (name or "").strip()
        if not name or len(name) > LONGEST_NAME or not name.isprintable():
            raise SettingError("name a model: a bundled one, one that is offered here, or a Hugging Face id")
        if dtype not in DTYPES:
            raise SettingError(f"the number format must be one of {', '.join(DTYPES)}")
        with self._lock:
            if not self.holds(name, dtype):
                # A report names an offer as its visitor did, not where it lies.
                model = replace(wb.load(OFFERED.model(name), dtype=dtype), name=name)
                for _ in wb.generate(model, [0, 0], max_new_tokens=2, stop_tokens=()):
                    pass
                self.put(name, dtype, model)
            self._models.move_to_end((name, dtype))
            return self._models[name, dtype]


def about(model: Any) -> str:
    """One line on a loaded model, and what its files ask for that a run leaves out."""
    dtype, revision = str(model.dtype).removeprefix("torch."), f", {model.revision}" if model.revision else ""
    line = (
        f"{model.name} is loaded: {model.layers} layers, {model.anatomy.vocabulary:,} tokens in its vocabulary, "
        f"{model.anatomy.positions:,} positions, {dtype} on {model.device}{revision}."
    )
    return " ".join((line, *model.notes))


def bundled_names() -> list[str]:
    """Names of the models that need no hub."""
    return list(wb.models.built.NAMES)


@cache
def examples() -> dict[str, wb.tasks.Prompt]:
    """The bundled prompts by id."""
    return {prompt.id: prompt for prompt in wb.tasks.load_prompts("mixed")}


def limits() -> str:
    """One line on how long a prompt may be."""
    return f"at most {MOST_CHARACTERS:,} characters and {MOST_TOKENS:,} tokens, and what the model has positions for"


def as_prompt(text: str, chat: bool) -> wb.tasks.Prompt:
    """The text as a prompt; an example that was left as it is keeps its reference and task.

    Raises
    ------
    PromptError
        Empty or too many characters.
    """
    if not (text or "").strip():
        raise PromptError("The prompt is empty: type one, or take an example.")
    if len(text) > MOST_CHARACTERS:
        raise PromptError(f"The prompt has {len(text):,} characters; the page takes {MOST_CHARACTERS:,}: shorten it.")
    for prompt in examples().values():
        if prompt.prompt == text and prompt.chat == chat:
            return prompt
    return wb.tasks.Prompt("the prompt", text, chat=chat)


def parts(model: Any, text: str, chat: bool) -> tuple[list[int], int | None]:
    """Token ids of a prompt, and how many of them are its context; None where it marks none.

    Raises
    ------
    PromptError
        Empty, or too long for the page or the model.
    """
    prompt = as_prompt(text, chat)
    read, context = (text, None) if model.tokenizer is None else wb.tasks.encode_parts(model.tokenizer, prompt)
    ids = model.encode(read)
    if len(ids) > MOST_TOKENS:
        raise PromptError(f"The prompt has {len(ids):,} tokens; the page takes {MOST_TOKENS:,}: shorten it.")
    check_memory(model, len(ids))
    return ids, context


def encode(model: Any, text: str, chat: bool) -> list[int]:
    """Token ids of a prompt, as :func:`parts`."""
    return parts(model, text, chat)[0]
