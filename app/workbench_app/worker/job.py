"""One piece of work, as the function that does it sees it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from workbench_app.worker.pipe import Pipe


class Job:
    """One piece of work as the function that does it sees it.

    Attributes
    ----------
    cancel : threading.Event
        Set once nobody wants it any more.
    """

    def __init__(self, number: int, pipe: Pipe) -> None:
        self.cancel = threading.Event()
        self._number, self._pipe = number, pipe

    def say(self, kind: str, **content: Any) -> None:
        """Tell the page something."""
        self._pipe.send(job=self._number, kind=kind, **content)

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Tell the page what is being done, as some of it may only take so long."""
        self.say("phase", name=name)
        yield
        self.say("phase", name="")
