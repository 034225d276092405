"""What one recipe did on one prompt, and where finished ones are kept so that a study can go on after a stop."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from workbench.engine.step import Step
from workbench.errors import WorkbenchError
from workbench.files import PARTIAL
from workbench.studies.run import sha256

_VERSION = 3
_OLD = 3600.0  # seconds after which nobody is still writing
NAN = float("nan")


@dataclass
class Cell:
    """One run on one prompt.

    Attributes
    ----------
    steps : list of Step
        Of the last finished repeat.
    seconds, time_to_first_token : list of float
        For each repeat, measured [s]; NaN where it was not reached.
    new_tokens : list of int
        For each repeat; 0 where it was not reached.
    speedup : list of float
        For each repeat, seconds per decoded token of the baseline over this run's.
    quality : dict or None
        Teacher-forced ``kl``, ``top1_agreement`` and ``perplexity``; the baseline's also ``margins``.
    failed : str or None
        The message of what stopped it.
    """

    steps: list[Step] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    time_to_first_token: list[float] = field(default_factory=list)
    new_tokens: list[int] = field(default_factory=list)
    speedup: list[float] = field(default_factory=list)
    quality: dict[str, Any] | None = None
    failed: str | None = None

    @classmethod
    def empty(cls, repeats: int) -> Cell:
        """A cell of which nothing has run."""
        return cls([], [NAN] * repeats, [NAN] * repeats, [0] * repeats, [NAN] * repeats)

    @property
    def tokens(self) -> list[int]:
        """Tokens of the last finished repeat."""
        return [token for step in self.steps for token in step.tokens]

    @property
    def ran(self) -> bool:
        """Whether at least one repeat was finished."""
        return bool(self.steps)

    def seconds_per_token(self, repeat: int) -> float:
        """Of decoding in one repeat, the prefill and its token left out [s]; NaN where nothing was decoded.

        A run that ends after a few tokens would else be judged by its prefill, which has a measure of its own.
        """
        decoded = self.new_tokens[repeat] - 1
        return (self.seconds[repeat] - self.time_to_first_token[repeat]) / decoded if decoded > 0 else NAN


class Cells:
    """Finished cells in a folder, one JSON file each, named by the hash of their recipe; without a folder, none.

    A file is written beside its place and moved there, and carries a checksum: one that is damaged or half is computed
    anew rather than believed. What a killed process left half written is removed when the folder is next used.

    Parameters
    ----------
    folder : path or None

    Raises
    ------
    WorkbenchError
        If the folder cannot be made or written to.
    """

    def __init__(self, folder: str | Path | None) -> None:
        self.folder = None if folder is None else Path(folder)
        if self.folder is not None:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or error
                raise WorkbenchError(f"{str(self.folder)!r:.300} cannot hold a study: {reason}") from error
            for file in self.folder.glob(f".cell-*{PARTIAL}"):
                if _abandoned(file):
                    file.unlink(missing_ok=True)

    def get(self, recipe_hash: str) -> Cell | None:
        """The cell of a recipe, if it is there and whole."""
        if self.folder is None:
            return None
        try:
            stored = json.loads(self._file(recipe_hash).read_text("utf-8"))
            content = stored["cell"]
            if stored["version"] != _VERSION or stored["hash"] != recipe_hash or stored["sha256"] != sha256(content):
                return None
            steps = [Step(**{key: _tuples(value) for key, value in step.items()}) for step in content["steps"]]
            return Cell(**{**content, "steps": steps})
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None

    def content_of_other(self, recipe_hash: str) -> Any:
        """What the names in a recipe stood for when a cell was kept that differs in nothing else, the newest one; None
        if there is none. The part of the hash before its first ``-`` is that of the names."""
        names, dash, _ = recipe_hash.partition("-")
        if self.folder is None or not dash:
            return None
        others = [file for file in self.folder.glob(f"{names}-*.json") if file.stem != recipe_hash]
        try:
            newest = max(others, key=lambda file: file.stat().st_mtime_ns, default=None)
            return None if newest is None else json.loads(newest.read_text("utf-8")).get("content", {})
        except (OSError, ValueError, AttributeError, RecursionError):
            return {}

    def put(self, recipe_hash: str, cell: Cell, content: Any = None) -> None:
        """Keep a finished cell, and what the names in its recipe stood for."""
        if self.folder is None:
            return
        plain = json.loads(json.dumps(asdict(cell)))
        stored = {"version": _VERSION, "hash": recipe_hash, "sha256": sha256(plain), "content": content, "cell": plain}
        try:
            handle, name = tempfile.mkstemp(dir=self.folder, prefix=_prefix(), suffix=PARTIAL)
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as file:
                    json.dump(stored, file)
                os.replace(name, self._file(recipe_hash))
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise
        except OSError as error:
            raise WorkbenchError(f"{self.folder} could not keep a result: {error.strerror}") from error

    def _file(self, recipe_hash: str) -> Path:
        return self.folder / f"{recipe_hash}.json"


def _prefix() -> str:
    """How the name of a file begins that this process has not finished."""
    return f".cell-{os.getpid()}@{re.sub(r'[^A-Za-z0-9.]', '', socket.gethostname())}-"


def _abandoned(file: Path) -> bool:
    """Whether the process that began a file has ended, killed in the middle."""
    owner = re.match(r"\.cell-(\d+)@([A-Za-z0-9.]*)-", file.name)
    here = _prefix().partition("@")[2].removesuffix("-")
    if owner is None or owner[2] != here:
        with contextlib.suppress(OSError):
            return time.time() - file.stat().st_mtime > _OLD
        return False
    try:
        os.kill(int(owner[1]), 0)
    except (ProcessLookupError, OverflowError):
        return True
    except OSError:
        return False
    return False


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
