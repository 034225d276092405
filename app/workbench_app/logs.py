"""What is written to the log has an end, whatever was sent to the page."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

LONGEST = 8_000
"""Characters of one entry."""


def clipped(text: str, most: int = LONGEST) -> str:
    """Text with its middle left out where it is longer than ``most`` characters."""
    if len(text) <= most:
        return text
    head, tail = text[: most // 2], text[len(text) - most // 2 :]
    return f"{head} … [{len(text) - len(head) - len(tail):,} characters left out] … {tail}"


class _Bounded:
    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(clipped(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def bounded_output() -> Iterator[None]:
    """Bound every entry that is printed meanwhile: Gradio prints what a visitor sent when it does not fit a control."""
    before = {name: getattr(sys, name) for name in ("stdout", "stderr") if getattr(sys, name) is not None}
    bounded = {name: _Bounded(stream) for name, stream in before.items()}
    for name, stream in bounded.items():
        setattr(sys, name, stream)
    try:
        yield
    finally:
        for name, stream in bounded.items():
            if getattr(sys, name) is stream:
                setattr(sys, name, before[name])
