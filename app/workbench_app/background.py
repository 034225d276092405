"""Work that reports progress from a thread of its own, and ends when the one who waits for it goes away."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Generator
from typing import Any

_PATIENCE = 0.25  # s
Report = Callable[[int, int, str], None]


def watched(work: Callable[[Report, threading.Event], Any], stop: threading.Event) -> Generator[tuple, None, Any]:
    """Run ``work(report, stop)`` in a thread, yield its reports ``(done, total, message)``, and return its result.

    The last report is repeated while there is no new one, so that whoever listens can notice that nobody does any more.
    Closing the generator sets ``stop`` and waits for the thread, so that nothing runs on unseen.

    Raises
    ------
    Exception
        Whatever the work raised.
    """
    reports: queue.SimpleQueue[tuple | None] = queue.SimpleQueue()
    last: tuple = (0, 1, "warming up")
    outcome: dict[str, Any] = {}

    def run() -> None:
        try:
            outcome["result"] = work(lambda *report: reports.put(report), stop)
        except BaseException as error:
            outcome["error"] = error
        finally:
            reports.put(None)

    thread = threading.Thread(target=run, name="workbench-study", daemon=True)
    thread.start()
    finished = False
    try:
        while last is not None:
            yield last
            with contextlib.suppress(queue.Empty):
                last = reports.get(timeout=_PATIENCE)
        finished = True
    finally:
        if not finished:
            stop.set()
        thread.join()
    if "error" in outcome:
        raise outcome["error"]
    return outcome["result"]
