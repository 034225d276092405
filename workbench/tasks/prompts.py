"""Prompts: how the bundled ones and the user's own files are read and written."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

from workbench.errors import PromptError
from workbench.files import write_atomically
from workbench.tasks import humaneval
from workbench.tasks.prompt import CONTINUED_TASKS, Prompt
from workbench.tasks.prompt_file import PromptFileError, check_text, parse_prompts, read_text
from workbench.tasks.selection import stratified
from workbench.tasks.spec_bench import question

__all__ = ["Prompt", "TaskInfo", "list_tasks", "load_prompts", "prompt_of", "write_prompts"]

_FIELDS = frozenset({"id", "context", "prompt", "reference", "task", "chat", "metadata"})


@dataclass(frozen=True)
class TaskInfo:
    """What `list_tasks` says of a task: its name, how many prompts it has, its source and its licence.

    `count` is None where prompts are made on demand (needle) or the package that holds them is not installed.
    """

    name: str
    count: int | None
    source: str
    licence: str
    description: str


@cache
def _catalogue() -> dict[str, dict[str, Any]]:
    return json.loads(files("workbench_data").joinpath("prompts", "sources.json").read_text(encoding="utf-8"))


def _bundled_names() -> list[str]:
    return [name for name, entry in _catalogue().items() if "file" in entry]


def list_tasks() -> list[TaskInfo]:
    """Every task there is, with source and licence, the bundled ones first."""
    tasks = []
    for name, entry in _catalogue().items():
        count = None
        if "file" in entry:
            count = len(_bundled(name))
        elif name == "humaneval" and humaneval.available():
            count = len(humaneval.load())
        tasks.append(TaskInfo(name, count, entry["source"], entry["licence"], entry["description"]))
    return tasks


def load_prompts(name_or_path: str | Path, limit: int | None = None) -> list[Prompt]:
    """Read prompts by name or from a file.

    Parameters
    ----------
    name_or_path
        A bundled task (`list_tasks`); ``"humaneval"``; ``"all"``: every bundled prompt, task after task;
        ``"mixed"``: the same prompts taking one task after another in turn, so that a small `limit` still
        sees every task; or the path of a JSON Lines file whose lines have ``id``, ``prompt`` and optionally
        ``reference``, ``task`` (``"chat"`` if absent), ``chat``, ``metadata`` and ``context``, which is the text
        that stands directly before ``prompt``, the question. Other fields are kept in the metadata. A line that has
        ``turns`` and no ``prompt`` is read as a question of Spec-Bench (`workbench.tasks.load_spec_bench`): its first
        turn is the prompt.
    limit
        At most this many: some of every task and category, in the order of the whole (`stratified`).

    Raises
    ------
    PromptFileError
        The name is no task and no file has that path; or the file is not a regular file, larger than 64 MB,
        not UTF-8 or empty; or none of its lines can be read.
    PromptError
        `limit` is not positive, or the task makes its prompts on demand (``"needle"``).

    Warns
    -----
    PromptFileWarning
        Lines of the file were left out; each is named: it is bad JSON, lacks a field, has one of the wrong type, has
        an empty prompt, or repeats an id.
    """
    name = str(name_or_path)
    if name == "all":
        prompts = list(chain.from_iterable(_bundled(task) for task in _bundled_names()))
    elif name == "mixed":
        turns = zip_longest(*(_bundled(task) for task in _bundled_names()))
        prompts = [prompt for turn in turns for prompt in turn if prompt is not None]
    elif name in _bundled_names():
        prompts = list(_bundled(name))
    elif name == "humaneval":
        prompts = humaneval.load()
    elif name == "needle":
        raise PromptError("needle prompts are made to a length: call workbench.tasks.needle(tokenizer, length, depth)")
    else:
        prompts = _of_file(Path(name_or_path))
    return stratified(prompts, limit)


def _bundled(name: str) -> list[Prompt]:
    text = files("workbench_data").joinpath("prompts", _catalogue()[name]["file"]).read_text(encoding="utf-8")
    return parse_prompts(text, name, prompt_of)


def _of_file(path: Path) -> list[Prompt]:
    try:
        there = path.exists()
    except OSError as error:
        raise PromptFileError(f"{str(path)[:200]}: cannot be read ({error.strerror})") from error
    if not there:
        known = ", ".join(["all", "mixed", *_bundled_names(), "humaneval"])
        raise PromptFileError(f"no prompts file at {path}, and no task of that name (tasks: {known})")
    return parse_prompts(read_text(path), str(path), prompt_of)


def prompt_of(record: dict[str, Any], place: str) -> Prompt:
    """The prompt of one line's object; `place` names the line in messages.

    Raises
    ------
    PromptFileError
    """
    if "turns" in record and "prompt" not in record:
        return question(record, place)
    for name in ("id", "prompt"):
        if name not in record:
            raise PromptFileError(f"{place}: the field {name!r} is missing")
    if isinstance(record["id"], int) and not isinstance(record["id"], bool):
        record["id"] = str(record["id"])
    record = {key: value for key, value in record.items() if value is not None or key in ("id", "prompt")}
    task = record.setdefault("task", "chat")
    for name in ("id", "context", "prompt", "reference", "task"):
        if name in record and not isinstance(record[name], str):
            raise PromptFileError(f"{place}: {name!r} must be text, not {type(record[name]).__name__}")
        if name in record and name != "reference" and not record[name].strip():
            raise PromptFileError(f"{place}: {name!r} is empty")
        check_text(record.get(name, ""), name, place)
    chat = record.get("chat", task not in CONTINUED_TASKS)
    metadata = record.get("metadata", {})
    if not isinstance(chat, bool):
        raise PromptFileError(f"{place}: 'chat' must be true or false")
    if not isinstance(metadata, dict):
        raise PromptFileError(f"{place}: 'metadata' must be an object")
    extra = {key: value for key, value in record.items() if key not in _FIELDS}
    context = record.get("context", "")
    return Prompt(
        record["id"],
        context + record["prompt"],
        record.get("reference"),
        task,
        chat,
        {**extra, **metadata},
        len(context) or None,
    )


def write_prompts(prompts: Iterable[Prompt], path: str | Path) -> None:
    """Write prompts as the JSON Lines file that `load_prompts` reads back to equal prompts."""
    lines = [json.dumps(prompt.as_record(), ensure_ascii=False) + "\n" for prompt in prompts]
    write_atomically(path, "".join(lines))
