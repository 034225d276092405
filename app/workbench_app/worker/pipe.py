"""Messages between the page's process and the worker's: one JSON object each, as nothing else is read from a process
that may have run a stranger's files."""

from __future__ import annotations

import json
import threading
from multiprocessing.connection import Connection
from typing import Any

Message = dict[str, Any]


class Pipe:
    """One end. Any thread may send; one receives."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._lock = connection, threading.Lock()

    def send(self, **message: Any) -> None:
        """Send a message.

        Raises
        ------
        OSError
            The other end is gone.
        """
        content = json.dumps(message, ensure_ascii=True, default=_number).encode()
        with self._lock:
            self._connection.send_bytes(content)

    def receive(self, patience: float | None = None) -> Message | None:
        """The next message; None if there is none after ``patience`` seconds.

        Raises
        ------
        EOFError, OSError
            The other end is gone.
        """
        return json.loads(self._connection.recv_bytes()) if self._connection.poll(patience) else None

    def close(self) -> None:
        """Close this end."""
        self._connection.close()


def _number(value: Any) -> Any:
    """A number of numpy or torch as Python's own."""
    return value.item()
