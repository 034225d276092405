"""What a technique's code is, as it stands in files: its own, what these import, and the engine that runs them.

:mod:`workbench.studies.code` hashes what is loaded, and so also what was written in a notebook; a verdict that is kept
in the repository hangs on files, which are the same in every process, and on those of shared parts, too.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
from collections.abc import Iterable, Iterator
from pathlib import Path

import workbench
import workbench_kernels
from workbench.engine.composition import parts_of
from workbench.studies.code import of_class

ENGINE = ("engine", "models", "cost", "settings.py", "registry.py", "techniques/_technique.py",
          "studies/compatibility_trial.py", "studies/distribution.py")  # fmt: skip
"""What every technique runs on and is judged by, beside the kernels: one hash for all of it."""

_ROOT = Path(workbench.__file__).parent
_KERNELS = Path(workbench_kernels.__file__).parent
# The package of all techniques imports every one of them to register it: none is a part of another for that.
_REGISTERING = (_ROOT / "__init__.py", _ROOT / "techniques" / "__init__.py")
_SOURCES = {".py", ".cpp", ".hpp"}
_LETTERS = 12  # of a SHA-256; what they tell apart is the versions of one file, not all files of the world


@functools.cache
def of_engine() -> str:
    """A hash of the files that every technique runs on."""
    return _hash(file for place in (*(_ROOT / name for name in ENGINE), _KERNELS) for file in _inside(place))


@functools.cache
def of_technique(kind: type) -> str:
    """A hash of the file that holds a class and of the library's files that it imports, directly or not, and of those
    of the techniques that its settings name in the first of its ``examples()``, by which it is judged.

    The engine is not among them, see :func:`of_engine`. A class without a file, of a notebook, is hashed as it is
    loaded.
    """
    reached: set[Path] = set()
    loaded = []
    judged_by = kind.examples()[:1] if hasattr(kind, "examples") else ()
    for each in (kind, *(type(part) for example in judged_by for part in parts_of(example))):
        file = _source(each)
        reached |= set() if file is None else imported(file)
        loaded += [of_class(each)] if file is None else []
    return _hash(reached, loaded)


def _source(kind: type) -> Path | None:
    """The file that holds a class; None for one of a notebook."""
    try:
        file = Path(inspect.getsourcefile(kind) or "")
    except (TypeError, OSError):
        return None
    return file if file.is_file() else None


def imported(file: Path) -> set[Path]:
    """A file and those of ``workbench.*`` that it imports, directly or not, up to the engine."""
    reached, waiting = {file}, [file]
    while waiting:
        more = set(_imports(waiting.pop())) - reached
        reached |= more
        waiting += more
    return reached


def _imports(file: Path) -> Iterator[Path]:
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        names: Iterable[str] = ()
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for place in filter(None, map(_file, names)):
            if not any(place.is_relative_to(_ROOT / name) for name in ENGINE):
                yield place


def _file(name: str) -> Path | None:
    """The file of ``workbench.a.b.C``: that of the longest part of the name which is a module."""
    top, *parts = name.split(".")
    while top == "workbench" and parts:
        place = _ROOT.joinpath(*parts)
        for file in (place.with_suffix(".py"), place / "__init__.py"):
            if file.is_file():
                return None if file in _REGISTERING else file
        parts.pop()
    return None


def _inside(place: Path) -> list[Path]:
    return [file for file in place.rglob("*") if file.suffix in _SOURCES] if place.is_dir() else [place]


def _hash(files: Iterable[Path], loaded: Iterable[str] = ()) -> str:
    """Of contents and of places within the library, with the line ends of any system, and of what is hashed already."""
    digest = hashlib.sha256()
    for name, file in sorted((_name(file), file) for file in files):
        digest.update(f"{name}\n{file.read_text('utf-8')}\0".encode())
    digest.update("".join(loaded).encode())
    return digest.hexdigest()[:_LETTERS]


def _name(file: Path) -> str:
    for home in (_ROOT, _KERNELS):
        if file.is_relative_to(home):
            return f"{home.name}/{file.relative_to(home).as_posix()}"
    return file.name
