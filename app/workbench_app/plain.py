"""What a page may say: text made safe for HTML, and errors as plain messages, with unexpected ones kept in the log."""

from __future__ import annotations

import contextlib
import html
import logging
import secrets
import traceback
from collections.abc import Iterator
from typing import Any

from workbench.errors import OutOfMemory, WorkbenchError
from workbench_app.logs import clipped

log = logging.getLogger("workbench_app")
_LONGEST_MESSAGE = 2_000


def safe(text: Any) -> str:
    """Any value as text that markup cannot escape from, also inside an attribute."""
    return html.escape(str(text), quote=True)


def words(name: str) -> str:
    """A name in snake case as words."""
    return name.replace("_", " ")


def message(error: BaseException) -> str:
    """What the person at the page is told of an error; an unexpected one goes to the log under a short number."""
    if isinstance(error, WorkbenchError):
        return clipped(str(error), _LONGEST_MESSAGE)
    if isinstance(error, MemoryError):
        return str(OutOfMemory("The machine has no memory left for this: shorten the prompt or take a smaller model."))
    number = secrets.token_hex(4)
    log.error("unexpected error %s\n%s", number, clipped("".join(traceback.format_exception(error))))
    return f"Something went wrong that should not have. The server's log has the details under {number}."


def problem(text: str) -> str:
    """A message as a box; nothing for an empty one."""
    return f'<div class="problem" role="alert">{safe(text)}</div>' if text else ""


def note(text: str) -> str:
    """A quiet line of text; nothing for an empty one."""
    return f'<div class="note" role="status">{safe(text)}</div>' if text else ""


@contextlib.contextmanager
def caught(problems: list[str]) -> Iterator[None]:
    """Turn whatever is raised inside into a message at the end of ``problems``; the page stays as it is.

    A closed generator is no error: what ends it passes through.
    """
    try:
        yield
    except Exception as error:
        problems.append(message(error))
