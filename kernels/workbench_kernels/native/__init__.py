"""Kernels in C++ for the CPU: compiled once for this processor, kept, and loaded without a build system.

The sources have a plain C interface, so that compiling takes seconds and no header of torch or Python. What was
compiled stays in the user's cache folder under a name made of the source, the command, the compiler and the processor;
another machine that shares the folder makes its own. Beside it stands its SHA-256: a library that is damaged would end
the process when it is loaded or called, so one that differs is made anew. Nothing is compiled where there is no
compiler, and the callers then do without: `BackendUnavailable` says why.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from workbench_kernels.dispatch import BackendUnavailable
from workbench_kernels.private_folder import private_folder

_COMPILERS = ("c++", "g++", "clang++")
_FLAGS = ("-std=c++17", "-O3", "-march=native", "-ffp-contract=off", "-fopenmp", "-shared", "-fPIC")
_HEADERS = Path(__file__).parent
KERNELS = _HEADERS / "kernels.cpp"
"""All kernels in one library."""
# Seconds that a compiler may take: far more than it needs, since on a busy machine a process must not end up with
# another arithmetic than its neighbours.
_LIMIT = 600


def library(source: Path, *flags: str) -> ctypes.CDLL:
    """A compiled and loaded source.

    Parameters
    ----------
    source : Path
        A C++ file with ``extern "C"`` functions.
    *flags : str
        For the compiler, after the usual ones.

    Raises
    ------
    BackendUnavailable
        If there is no compiler, or it or the loader refuses; the text has the first line of what they said.

    Notes
    -----
    The compiler is the one that the environment variable ``CXX`` names, else ``c++``, ``g++`` or ``clang++``. The
    folder is ``native`` in ``WORKBENCH_CACHE``, else in ``dynamic-inference-workbench`` of the user's cache folder.
    What failed once is not tried again by the same process.
    """
    attempt = _attempt(source, flags)
    if isinstance(attempt, BackendUnavailable):
        raise attempt
    return attempt


def function(name: str, arguments: Sequence[type], *flags: str) -> ctypes._CFuncPtr:
    """A function of :data:`KERNELS` that takes such arguments and returns nothing; it raises what :func:`library`
    raises."""
    function = getattr(library(KERNELS, *flags), name)
    function.argtypes, function.restype = list(arguments), None
    return function


def sources() -> list[Path]:
    """The files that the kernels are made of."""
    return sorted(file for ending in ("hpp", "cpp") for file in _HEADERS.parent.glob(f"*/*.{ending}"))


@functools.cache
def _attempt(source: Path, flags: tuple[str, ...]) -> ctypes.CDLL | BackendUnavailable:
    try:
        return _loaded(source, flags)
    except BackendUnavailable as error:
        return error
    except (OSError, subprocess.TimeoutExpired, Timeout) as error:
        return BackendUnavailable(f"{source.name} cannot be compiled and loaded here: {error}")


def _loaded(source: Path, flags: tuple[str, ...]) -> ctypes.CDLL:
    compiler = shutil.which(os.environ.get("CXX", "")) or next(filter(None, map(shutil.which, _COMPILERS)), None)
    if compiler is None:
        raise BackendUnavailable("there is no C++ compiler here (CXX, c++, g++ or clang++)")
    command = [compiler, *_FLAGS, f"-I{_HEADERS}", *flags]
    version = subprocess.run([compiler, "--version"], capture_output=True, timeout=_LIMIT, check=False).stdout
    texts = [each.read_bytes() for each in (source, *sources())]
    known = *texts, repr(command).encode(), version, _processor().encode()
    made = private_folder("native") / f"{source.stem}-{hashlib.sha256(b'|'.join(known)).hexdigest()[:24]}.so"
    if not _whole(made):
        with FileLock(made.with_suffix(".lock"), timeout=_LIMIT):  # one process compiles, the others wait for it
            if not _whole(made):
                _compile([*command, str(source)], made)
    return ctypes.CDLL(str(made))


def _whole(made: Path) -> bool:
    """Whether a library is there and has the checksum that stands beside it."""
    try:
        return (
            made.with_suffix(".sha256").read_text("ascii", "replace") == hashlib.sha256(made.read_bytes()).hexdigest()
        )
    except FileNotFoundError:
        return False


def _compile(command: list[str], made: Path) -> None:
    """Compile beside the final name, and move library and checksum there in one step each.

    Whoever looks in between finds a checksum that differs, and waits.
    """
    with tempfile.TemporaryDirectory(dir=made.parent) as folder:
        out = Path(folder) / made.name
        done = subprocess.run([*command, "-o", str(out)], capture_output=True, text=True, timeout=_LIMIT, check=False)
        if done.returncode:
            first_line = (done.stderr.strip() or "nothing").splitlines()[0]
            raise BackendUnavailable(f"{made.stem.rsplit('-', 1)[0]}: {Path(command[0]).name} said: {first_line}")
        beside = out.with_suffix(".sha256")
        beside.write_text(hashlib.sha256(out.read_bytes()).hexdigest(), "ascii")
        os.replace(out, made)
        os.replace(beside, made.with_suffix(".sha256"))


@functools.cache
def _processor() -> str:
    """What ``-march=native`` depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    flags = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    return f"{platform.platform()} {platform.processor()} {flags}"
