"""The page's side: jobs wait in line, run one at a time in the worker, and say what they find while they run."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from workbench.errors import WorkbenchError
from workbench_app.runs import Stop
from workbench_app.worker.child import Child
from workbench_app.worker.limits import READING_SECONDS
from workbench_app.worker.pipe import Message

MOST_WAITING = 12
"""Jobs that may wait while one runs; one more is refused."""
CANCEL_SECONDS = 30.0
"""A job that was cancelled and has not ended by then is ended with its process: a load that hangs, a library that does
not come back."""
_PATIENCE = 0.25  # s; how soon a page that is left is noticed
_TICK = 0.1  # s
_NO_CALL = 0  # number of a job that nobody waits for
_AFTER = " What was written so far stays; the process is started anew, and the next run can begin."
_LIMITS = {
    "reading": (
        READING_SECONDS,
        f"Reading the prompt took more than {READING_SECONDS:.0f} s: look at the model's chat template and tokenizer.",
    )
}
"""Phase of a job -> how long it may take [s], and what is said if it takes longer."""

log = logging.getLogger("workbench_app")


class QueueFull(WorkbenchError):
    """Too many jobs wait already."""


class WorkerLost(WorkbenchError):
    """The worker's process ended in the middle of a job."""


class _Call:
    """A job as it is waited for."""

    def __init__(self, number: int, name: str, arguments: dict[str, Any]) -> None:
        self.number, self.name, self.arguments = number, name, arguments
        self.events: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self.ahead: int | None = None  # jobs before it; None once it runs
        self.cancelled = self.over = False
        self.limit(float("inf"))

    def limit(self, seconds: float, overdue: str = "") -> None:
        """End the process in so many seconds, and say why."""
        self.deadline, self.overdue = time.monotonic() + seconds, overdue

    def end(self, error: WorkbenchError | None = None) -> None:
        self.over = True
        self.events.put({"kind": "over", "error": error})


class Worker:
    """The worker's process, started with the first job, and anew after it was lost.

    Parameters
    ----------
    folder : Path, optional
        Taken away by the process if this one dies without having done so.
    offers : sequence of str
        What visitors may name; see :class:`workbench_app.offers.Offers`.
    most_waiting : int
    """

    def __init__(
        self, folder: Path | None = None, offers: Sequence[str] = (), most_waiting: int = MOST_WAITING
    ) -> None:
        self._folder, self._offers, self._most = folder, list(offers), most_waiting
        self._lock = threading.RLock()
        self._waiting: deque[_Call] = deque()
        self._current: _Call | None = None
        self._child: Child | None = None
        self._held: dict[tuple[str, str], str] = {}
        self._numbers = 0
        self._closed = False
        self._threads: list[threading.Thread] = []

    @property
    def pid(self) -> int | None:
        """Number of the process; None while there is none."""
        return None if self._child is None else self._child.pid

    def about(self, name: str, dtype: str) -> str | None:
        """One line on a model that the worker has at hand; None if it has not."""
        return self._held.get((name, dtype))

    def run(self, name: str, arguments: dict[str, Any], stop: Stop) -> Iterator[Message]:
        """Do a job, and yield what it says.

        Parameters
        ----------
        name : str
            Of a function in :mod:`workbench_app.worker.jobs`.
        arguments : dict
            Plain values, as JSON has them.
        stop : Stop
            Set, it ends the job, also one that still waits. Closing the generator does the same.

        Yields
        ------
        dict
            With its ``kind``: what the job says; ``phase`` with a ``name``; ``waiting`` with how many are ``ahead``;
            ``nothing`` where there was none for a while, so that whoever listens can notice that nobody does any more.

        Raises
        ------
        QueueFull
            At once.
        WorkerLost
            The process ended.
        WorkbenchError
            What the job failed with.
        """
        call = self._enter(name, arguments)
        stop.tell(lambda: self._cancel(call))
        try:
            while True:
                try:
                    event = call.events.get(timeout=_PATIENCE)
                except queue.Empty:
                    ahead = call.ahead
                    event = {"kind": "nothing"} if ahead is None else {"kind": "waiting", "ahead": ahead}
                if event["kind"] == "over":
                    if event["error"] is not None:
                        raise event["error"]
                    return
                yield event
        finally:
            self._cancel(call)

    def close(self) -> None:
        """End the process, and every job with it."""
        with self._lock:
            self._closed = True
            child, self._child = self._child, None
            for call in [*self._waiting, *([self._current] if self._current else [])]:
                call.end(WorkerLost("The server ends."))
            self._waiting.clear()
            self._current = None
        if child is not None:
            child.close()
        for thread in self._threads:
            thread.join(5.0)

    def _enter(self, name: str, arguments: dict[str, Any]) -> _Call:
        with self._lock:
            if self._closed:
                raise WorkerLost("The server ends.")
            if self._current is not None and len(self._waiting) >= self._most:
                raise QueueFull(f"The queue is full ({len(self._waiting)} waiting): try again in a while.")
            self._numbers += 1
            call = _Call(self._numbers, name, arguments)
            self._waiting.append(call)
            self._next()
            if call.ahead is not None:
                call.events.put({"kind": "waiting", "ahead": call.ahead})
            return call

    def _next(self) -> None:
        """Give the worker the next job if it has none, and let the others know where they stand."""
        while self._current is None and self._waiting:
            call = self._current = self._waiting.popleft()
            call.ahead = None
            try:
                if self._child is None:
                    self._start()
                if not self._child.ready:
                    call.events.put({"kind": "phase", "name": "starting"})
                self._child.pipe.send(kind="job", job=call.number, name=call.name, arguments=call.arguments)
            except OSError as error:
                if self._child is None:
                    self._current = None
                    call.end(WorkerLost(f"The model's process cannot be started ({error.strerror})."))
                # Else it died meanwhile: its listener finds the pipe closed, and ends this job with the reason.
        for place, call in enumerate(self._waiting):
            call.ahead = place + 1

    def _cancel(self, call: _Call) -> None:
        with self._lock:
            if call.over or call.cancelled:
                return
            call.cancelled = True
            if call is not self._current:
                self._waiting.remove(call)
                call.end()
                self._next()
                return
            call.limit(CANCEL_SECONDS, f"It did not end within {CANCEL_SECONDS:.0f} s of being cancelled.")
            with contextlib.suppress(OSError):  # as above
                self._child.pipe.send(kind="cancel", job=call.number)

    def _start(self) -> None:
        child = self._child = Child(self._folder)
        if self._offers:
            with contextlib.suppress(OSError):  # as above
                child.pipe.send(kind="job", job=_NO_CALL, name="offer", arguments={"offers": self._offers})
        thread = threading.Thread(target=self._listen, args=(child,), name="workbench-worker", daemon=True)
        self._threads = [each for each in self._threads if each.is_alive()] + [thread]
        thread.start()

    def _listen(self, child: Child) -> None:
        """Hear a process until it is gone, and end it where a job has taken too long."""
        problem = ""
        try:
            while True:
                message = child.pipe.receive(_TICK)
                if message is not None and message["kind"] == "ends":
                    problem = f"The model's process ended by itself ({message['why']})."
                elif message is not None:
                    self._hear(child, message)
                with self._lock:
                    late = self._current is not None and time.monotonic() > self._current.deadline
                    if late and child is self._child and not problem:
                        problem = self._current.overdue
                        child.kill()
        except (EOFError, OSError):
            pass
        why = child.last_words()
        self._lost(child, problem or why)

    def _hear(self, child: Child, message: Message) -> None:
        with self._lock:
            kind, call = message["kind"], self._current
            if kind == "ready":
                child.ready = True
            elif kind == "holds":
                self._held = {(name, dtype): about for name, dtype, about in message["models"]}
            elif call is None or message["job"] != call.number:
                return
            elif kind == "over":
                problem, self._current = message["problem"], None
                call.end(None if problem is None else WorkbenchError(problem))
                self._next()
            else:
                if kind == "phase" and not call.cancelled:
                    call.limit(*_LIMITS.get(message["name"], (float("inf"),)))
                call.events.put(message)

    def _lost(self, child: Child, why: str) -> None:
        with self._lock:
            if child is not self._child:
                return
            self._child, self._held = None, {}
            call, self._current = self._current, None
            if call is not None:
                if not child.ready:
                    why = "The model's process could not be started; the server's log says why."
                call.end(WorkerLost(why + _AFTER * child.ready))
            log.warning("the worker was lost: %s", why)
            if child.ready and not self._closed:
                self._start()
            self._next()
