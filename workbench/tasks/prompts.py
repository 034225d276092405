"""Prompts: how the bundled ones and the user's own files are read and written."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

from workbench.errors import PromptError
from workbench.files import write_atomically
from workbench.tasks.prompt import CONTINUED_TASKS, Prompt

__all__ = [
    "MAXIMUM_FILE_BYTES",
    "Prompt",
    "PromptFileError",
    "TaskInfo",
    "check_text",
    "list_tasks",
    "load_prompts",
    "parse_prompts",
    "read_prompts_file",
    "write_prompts",
]

MAXIMUM_FILE_BYTES = 64 * 1024 * 1024

_FIELDS = frozenset({"id", "context", "prompt", "reference", "task", "chat", "metadata"})


class PromptFileError(PromptError):
    """A prompts file that cannot be used; the message names the file, the line and what is wrong."""


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
    from workbench.tasks import humaneval

    found = []
    for name, entry in _catalogue().items():
        count = None
        if "file" in entry:
            count = len(_bundled(name))
        elif name == "humaneval" and humaneval.available():
            count = len(humaneval.load())
        found.append(TaskInfo(name, count, entry["source"], entry["licence"], entry["description"]))
    return found


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
        At most this many, from the start.

    Raises
    ------
    PromptFileError
        The name is no task and no file has that path; or the file is not a regular file, larger than 64 MB,
        not UTF-8 or empty; or one of its lines is bad JSON, lacks a field, has one of the wrong type, has an
        empty prompt, or repeats an id.
    PromptError
        `limit` is not positive, or the task makes its prompts on demand (``"needle"``).
    """
    if limit is not None and limit < 1:
        raise PromptError(f"limit must be 1 or more, not {limit}")
    name = str(name_or_path)
    if name == "all":
        found = list(chain.from_iterable(_bundled(task) for task in _bundled_names()))
    elif name == "mixed":
        turns = zip_longest(*(_bundled(task) for task in _bundled_names()))
        found = [prompt for turn in turns for prompt in turn if prompt is not None]
    elif name in _bundled_names():
        found = list(_bundled(name))
    elif name == "humaneval":
        from workbench.tasks import humaneval

        found = humaneval.load()
    elif name == "needle":
        raise PromptError("needle prompts are made to a length: call workbench.tasks.needle(tokenizer, length, depth)")
    else:
        found = read_prompts_file(Path(name_or_path))
    return found[:limit]


def _bundled(name: str) -> list[Prompt]:
    text = files("workbench_data").joinpath("prompts", _catalogue()[name]["file"]).read_text(encoding="utf-8")
    return parse_prompts(text, name)


def read_prompts_file(path: Path, read: Callable[[dict[str, Any], str], Prompt] | None = None) -> list[Prompt]:
    """The prompts of a JSON Lines file; `read` makes one of a line's object and the name of its place.

    Raises
    ------
    PromptFileError
        As `load_prompts` says.
    """
    try:
        if not path.exists():
            known = ", ".join(["all", "mixed", *_bundled_names(), "humaneval"])
            raise PromptFileError(f"no prompts file at {path}, and no task of that name (tasks: {known})")
        if not path.is_file():
            raise PromptFileError(f"{path}: not a regular file")
        with path.open("rb") as stream:
            content = stream.read(MAXIMUM_FILE_BYTES + 1)
    except OSError as error:
        raise PromptFileError(f"{str(path)[:200]}: cannot be read ({error.strerror})") from error
    if len(content) > MAXIMUM_FILE_BYTES:
        raise PromptFileError(f"{path}: larger than {MAXIMUM_FILE_BYTES // 1024**2} MB")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PromptFileError(f"{path}: not UTF-8 text (byte {error.start})") from error
    return parse_prompts(text, str(path), read)


def parse_prompts(text: str, origin: str, read: Callable[[dict[str, Any], str], Prompt] | None = None) -> list[Prompt]:
    """The prompts of the lines of a text, as `read_prompts_file`; `origin` names the text in messages."""
    read = read or _prompt
    found: dict[str, Prompt] = {}
    # Not splitlines(): that also splits at U+2028 and other characters which JSON allows inside a string.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        place = f"{origin}, line {number}"
        prompt = read(_record(line, place), place)
        if prompt.id in found:
            raise PromptFileError(f"{place}: the id {prompt.id!r} was already used")
        found[prompt.id] = prompt
    if not found:
        raise PromptFileError(f"{origin}: holds no prompts")
    return list(found.values())


def _record(line: str, place: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise PromptFileError(f"{place}: not valid JSON ({error})") from error
    if not isinstance(record, dict):
        raise PromptFileError(f"{place}: expected an object with id and prompt, found {type(record).__name__}")
    return record


def _prompt(record: dict[str, Any], place: str) -> Prompt:
    if "turns" in record and "prompt" not in record:
        from workbench.tasks.spec_bench import question

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


def check_text(text: str, name: str, place: str) -> None:
    """Refuse what JSON can hold and UTF-8 cannot.

    Raises
    ------
    PromptFileError
        Half of a surrogate pair.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise PromptFileError(f"{place}: {name!r} holds half of a surrogate pair, which no text has") from error


def write_prompts(prompts: Iterable[Prompt], path: str | Path) -> None:
    """Write prompts as the JSON Lines file that `load_prompts` reads back to equal prompts."""
    lines = [json.dumps(prompt.as_record(), ensure_ascii=False) + "\n" for prompt in prompts]
    write_atomically(path, "".join(lines))
