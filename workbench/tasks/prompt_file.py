"""A JSON Lines file of prompts: read whole and carefully; a row that cannot be read is left out and named."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from workbench.errors import PromptError
from workbench.tasks.prompt import Prompt

__all__ = [
    "MAXIMUM_FILE_BYTES",
    "MAXIMUM_LINE",
    "PromptFileError",
    "PromptFileWarning",
    "check_text",
    "parse_prompts",
    "read_text",
]

MAXIMUM_FILE_BYTES = 64 * 1024 * 1024
MAXIMUM_LINE = 8 * 1024 * 1024  # characters; a million tokens are about half of that
_NAMED = 5  # rows that a message names; the others are counted

ParseRow = Callable[[dict[str, Any], str], Prompt]


class PromptFileError(PromptError):
    """A prompts file that cannot be used; the message names the file, the line and what is wrong."""


class PromptFileWarning(UserWarning):
    """Rows of a prompts file were left out; the message counts them and names line, id and what is wrong."""


def read_text(path: Path) -> str:
    """The text of a regular file in UTF-8, with or without a byte order mark.

    Raises
    ------
    PromptFileError
        There is none, or it cannot be read, is too large or in another encoding.
    """
    try:
        if not path.is_file():
            raise PromptFileError(f"{path}: not a regular file")
        with path.open("rb") as stream:
            content = stream.read(MAXIMUM_FILE_BYTES + 1)
    except OSError as error:
        raise PromptFileError(f"{str(path)[:200]}: cannot be read ({error.strerror})") from error
    if len(content) > MAXIMUM_FILE_BYTES:
        raise PromptFileError(f"{path}: larger than {MAXIMUM_FILE_BYTES // 1024**2} MB")
    if content.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in content:
        raise PromptFileError(f"{path}: not UTF-8 text but UTF-16, UTF-32 or no text at all: save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise PromptFileError(
            f"{path}: not UTF-8 text (byte {error.start}, in line {line}): save it as UTF-8"
        ) from error


def parse_prompts(text: str, origin: str, read: ParseRow) -> list[Prompt]:
    """The prompts of the lines of a text, in order; rows that cannot be read are left out.

    Parameters
    ----------
    text
    origin
        Names the text in messages.
    read
        Makes a prompt of a line's object and the name of its place, or raises PromptFileError that names it.

    Raises
    ------
    PromptFileError
        There are no rows, or none can be read.

    Warns
    -----
    PromptFileWarning
        Rows were left out.
    """
    by_id: dict[str, Prompt] = {}
    left_out: list[str] = []
    # Not splitlines(): that also splits at U+2028 and other characters which JSON allows inside a string.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = _record(line, f"line {number}")
            place = f"line {number}{_name(record)}"
            prompt = read(record, place)
            if prompt.id in by_id:
                raise PromptFileError(f"{place}: the id {prompt.id!r} was already used")
            by_id[prompt.id] = prompt
        except PromptFileError as error:
            left_out.append(str(error))
        except PromptError as error:
            left_out.append(f"line {number}: {error}")
    if not by_id and not left_out:
        raise PromptFileError(f"{origin}: holds no prompts")
    if not by_id and len(left_out) == 1:
        raise PromptFileError(f"{origin}, {left_out[0]}")
    if not by_id:
        raise PromptFileError(f"{origin}: none of its {len(left_out):,} rows can be read: {_listed(left_out)}")
    if left_out:
        rows = len(by_id) + len(left_out)
        warnings.warn(
            f"{origin}: {len(left_out):,} of {rows:,} rows cannot be read and are left out: {_listed(left_out)}",
            PromptFileWarning,
            stacklevel=2,
        )
    return list(by_id.values())


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


def _record(line: str, place: str) -> dict[str, Any]:
    if len(line) > MAXIMUM_LINE:
        raise PromptFileError(f"{place}: {len(line):,} characters long; at most {MAXIMUM_LINE:,} are read")
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise PromptFileError(f"{place}: not valid JSON ({error})") from error
    if not isinstance(record, dict):
        raise PromptFileError(f"{place}: expected an object with id and prompt, found {type(record).__name__}")
    return record


def _name(record: dict[str, Any]) -> str:
    """The row's id, for messages, where it has one that can be written."""
    name = record.get("id", record.get("question_id"))
    return f" (id {name!r:.60})" if isinstance(name, str | int) and not isinstance(name, bool) and name != "" else ""


def _listed(rows: list[str]) -> str:
    more = f"; and {len(rows) - _NAMED:,} more" if len(rows) > _NAMED else ""
    return "; ".join(rows[:_NAMED]) + more
