"""Files that are whole or not there, and names for files that are made of anything.

What is written grows under a hidden name in the same folder, goes to the disk, and takes its place in one step:
whatever happens meanwhile (a full disk, an exception, the end of the process), the place holds what it held before, or
the new.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import stat
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from workbench.errors import OutputError

PARTIAL = ".partial"
_LONGEST = 80  # bytes of a name that are kept readable
# Names of devices on Windows, with any ending.
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)", re.IGNORECASE)


def write_atomically(path: str | Path, content: str | bytes) -> Path:
    """Write a file, or leave the one that is there as it is.

    Parameters
    ----------
    path : path
        Its folder is made if it is missing.
    content : str or bytes
        Text becomes UTF-8 with its newlines as they are.

    Returns
    -------
    Path

    Raises
    ------
    OutputError
        One line, if the disk or the place refuses.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    with replacing(path) as scratch, scratch.open("wb") as file:
        file.write(data)
    return Path(path)


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A place beside ``path`` to write to, for writers that want a path; at the end it takes the place of ``path``.

    After an exception nothing has changed. The access rights of a file that was there are kept, and a link stays one.

    Raises
    ------
    OutputError
        One line, if the disk or the place refuses.
    """
    path = Path(path)
    scratch = None
    try:
        target = Path(os.path.realpath(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists() and not target.is_file():
            raise OutputError(f"{path} could not be written: it is no plain file; choose another name")
        if target.exists() and not os.access(target, os.W_OK):
            raise PermissionError(13, "it is read-only")
        scratch = target.with_name(f".{secrets.token_hex(8)}{PARTIAL}")
        yield scratch
        with scratch.open("rb+") as file:
            if target.exists():
                os.chmod(scratch, stat.S_IMODE(target.stat().st_mode))
            os.fsync(file.fileno())
        os.replace(scratch, target)
        _settle(target.parent)
    except OSError as error:
        raise OutputError(f"{path} could not be written: {error.strerror or error}") from error
    finally:
        if scratch is not None:
            with contextlib.suppress(OSError):
                scratch.unlink(missing_ok=True)


def save_tensors(path: str | Path, tensors: Mapping[str, Any], facts: dict[str, str] | None = None) -> None:
    """Write a safetensors file, or leave the one that is there as it is.

    Raises
    ------
    OutputError
        One line, if the disk or the place refuses.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        with replacing(path) as scratch:
            save_file(dict(tensors), scratch, facts)
    except SafetensorError as error:
        raise OutputError(f"{path} could not be written: {error}") from error


def is_there(path: str | Path) -> bool:
    """Whether something is at a path; not so where the text is no path at all (too long, a zero byte, no character)."""
    return os.path.exists(path)  # unlike pathlib's, which raises then


def at_home(path: str | Path) -> Path:
    """A path whose leading ``~`` is the user's folder; as it is where there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def file_name(text: str, shown: str | None = None) -> str:
    """A name for the file of something that is called ``text``: safe anywhere, and of no other text.

    Plain lower-case names of letters, digits, ``_`` and ``-`` stay as they are. Of all others the readable part is
    kept, or that of ``shown``, and twelve letters of the text's SHA-256 follow a ``~``, which no plain name has: names
    that a file system takes for one (upper and lower case, two ways to write an accent), paths, dots and texts of any
    length stay apart.
    """
    if re.fullmatch(r"[a-z0-9_][a-z0-9_-]*", text) and len(text) <= _LONGEST and not _RESERVED.fullmatch(text):
        return text
    readable = re.sub(r"[^\w-]+", "-", unicodedata.normalize("NFC", text if shown is None else shown)).strip("-")
    short = readable.encode("utf-8", "ignore")[:_LONGEST].decode("utf-8", "ignore")
    return f"{short}~{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:12]}"


def _settle(folder: Path) -> None:
    """Let the new name itself reach the disk, where a folder can be opened."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
