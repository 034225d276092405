"""The worker's side: takes one job after the other from the pipe, and ends with the process that started it.

``python -m workbench_app.worker DESCRIPTOR [FOLDER]`` runs it: the number of the open end of a socket, and the folder
that is taken away if the page's process dies without having done so itself.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import queue
import shutil
import signal
import threading
from multiprocessing.connection import Connection

from workbench_app.worker.job import Job
from workbench_app.worker.pipe import Message, Pipe

LONGEST_STANDSTILL = 600  # s
"""A library that lets no other thread run keeps this process from noticing that its parent is gone; so long at most."""

inside = False
"""Whether this is the worker's process."""


class Desk:
    """Where jobs come in, on a thread of their own so that a wish to cancel is heard in the middle of one."""

    def __init__(self, pipe: Pipe, folder: str | None) -> None:
        self.pipe, self._folder = pipe, folder
        self._waiting: queue.SimpleQueue[tuple[Job, Message]] = queue.SimpleQueue()
        self._jobs: dict[int, Job] = {}

    def listen(self) -> None:
        """Sort what comes in, until there is nobody left who could send."""
        with contextlib.suppress(EOFError, OSError):
            while True:
                faulthandler.dump_traceback_later(LONGEST_STANDSTILL, exit=True)
                message = self.pipe.receive(5.0)
                if message is None:
                    continue
                if message["kind"] == "end":
                    os._exit(0)
                if message["kind"] == "cancel":
                    job = self._jobs.get(message["job"])
                    if job is not None:
                        job.cancel.set()
                    continue
                job = self._jobs[message["job"]] = Job(message["job"], self.pipe)
                self._waiting.put((job, message))
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)
        os._exit(1)

    def work(self) -> None:
        """Do one job after the other."""
        from workbench_app.plain import message as plainly
        from workbench_app.worker.jobs import JOBS

        self.pipe.send(kind="ready")
        while True:
            job, asked = self._waiting.get()
            problem = None
            try:
                JOBS[asked["name"]](job, **asked["arguments"])
            except Exception as error:
                problem = plainly(error)
            except BaseException as error:
                # SystemExit, or the panic of a library in Rust: what it leaves behind is not to be built on.
                logging.getLogger("workbench_app").exception("the worker ends")
                self.pipe.send(kind="ends", why=type(error).__name__)
                os._exit(70)
            self._jobs.pop(asked["job"], None)
            job.say("over", problem=problem)


def main(descriptor: int, folder: str | None = None) -> None:
    """Serve the other end of an open socket until it is closed."""
    global inside
    inside = True
    faulthandler.enable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C reaches the whole group; the page's process decides
    desk = Desk(Pipe(Connection(descriptor)), folder)
    threading.Thread(target=desk.listen, name="workbench-desk", daemon=True).start()
    desk.work()
