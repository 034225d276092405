"""The worker's process as the page's process holds it: started, spoken to, ended, and what is said of its end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from multiprocessing import Pipe as open_pipe
from pathlib import Path

from workbench_app.worker.pipe import Pipe

# Taken when this is imported: the page's process later moves to an empty folder, which relative entries would follow.
_IMPORTS = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
_PATIENCE = 5.0  # s


class Child:
    """A new process with one end of a pipe.

    Not multiprocessing's: that would run the caller's own script again, and a script that serves the page with it.

    Parameters
    ----------
    folder : Path, optional
        What the process takes away if this one dies without having done so.

    Attributes
    ----------
    ready : bool
        Whether it has said that it takes jobs.
    pid : int
    """

    def __init__(self, folder: Path | None = None) -> None:
        ours, theirs = open_pipe()
        command = [sys.executable, "-m", "workbench_app.worker", str(theirs.fileno())]
        self._process = subprocess.Popen(
            command + ([] if folder is None else [str(folder)]),
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            env={**os.environ, "PYTHONPATH": _IMPORTS},
        )
        theirs.close()
        self.pipe = Pipe(ours)
        self.ready = False
        self.pid = self._process.pid

    def kill(self) -> None:
        """End it now, whatever it does."""
        self._process.kill()

    def close(self) -> None:
        """Let it end, and wait until it has."""
        with contextlib.suppress(OSError):
            self.pipe.send(kind="end")
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def last_words(self) -> str:
        """Why a process that closed its end of the pipe is gone, in one sentence."""
        try:
            code = self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:  # it closed the pipe and lives on, which is of no use
            self._process.kill()
            code = self._process.wait()
        self.pipe.close()
        if code == -signal.SIGKILL:
            return "The model's process was killed, most often because the machine ran out of memory."
        if code < 0:
            return f"A library crashed the model's process ({signal.Signals(-code).name})."
        return f"The model's process ended by itself (exit code {code})."
