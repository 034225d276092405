"""The runs of one visitor, each with its own wish to end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any


class Stop:
    """The wish that one run should end."""

    def __init__(self) -> None:
        self._lock, self._set = threading.Lock(), False
        self._listeners: list[Callable[[], None]] = []

    def is_set(self) -> bool:
        """Whether it was wished."""
        return self._set

    def set(self) -> None:
        """Wish it, and tell those who listen."""
        with self._lock:
            listeners, self._listeners, self._set = self._listeners, [], True
        for listener in listeners:
            listener()

    def tell(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` once it is wished, which may be now."""
        with self._lock:
            if not self._set:
                self._listeners.append(listener)
                return
        listener()


class Runs:
    """What a visitor has running or waiting. A copy is a fresh one, so that no two visitors share."""

    def __init__(self) -> None:
        self._open: list[Stop] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> Runs:
        return Runs()

    def begin(self) -> Stop:
        """A new run."""
        stop = Stop()
        self._open.append(stop)
        return stop

    def end(self, stop: Stop) -> None:
        """A run is over."""
        if stop in self._open:
            self._open.remove(stop)

    def cancel(self) -> None:
        """Wish that every run there is should end; one that begins later is none of them."""
        for stop in list(self._open):
            stop.set()

    @property
    def cancellable(self) -> bool:
        """Whether there is one that nobody has cancelled yet."""
        return any(not stop.is_set() for stop in self._open)
