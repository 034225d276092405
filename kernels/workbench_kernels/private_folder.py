"""A folder for code that was compiled here and will be run: the user's own, which nobody else can write to."""

import os
import stat
from pathlib import Path


def private_folder(name: str) -> Path:
    """A folder of that name in ``WORKBENCH_CACHE``, else in ``dynamic-inference-workbench`` of the user's cache folder.

    It is made if it is missing, with access for its owner alone.

    Raises
    ------
    OSError
        If it cannot be made, or it or the folder around it belongs to somebody else, is a link, or can be written by
        others; the text says which and what to do.
    """
    chosen = os.environ.get("WORKBENCH_CACHE")
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    around = Path(chosen).expanduser() if chosen else home / "dynamic-inference-workbench"
    folder = around / name
    around.mkdir(parents=True, exist_ok=True)
    folder.mkdir(exist_ok=True, mode=0o700)
    if not is_private(folder) or not _keeps(around):
        raise PermissionError(f"{folder} can be changed by others: make it and {around} yours alone (chown, chmod 700)")
    return folder


def is_private(folder: Path) -> bool:
    """Whether a folder is this user's, no link, and of nobody else to write to; always where there are no users."""
    if not hasattr(os, "getuid"):
        return True
    about = folder.lstat()
    return stat.S_ISDIR(about.st_mode) and about.st_uid == os.getuid() and not about.st_mode & 0o022


def _keeps(folder: Path) -> bool:
    """Whether nobody else can put another folder in place of one that is in this one."""
    if not hasattr(os, "getuid"):
        return True
    about = folder.stat()
    mode = about.st_mode & (~0o020 if about.st_gid == os.getgid() else ~0)  # of a group of its own a user is alone in
    return about.st_uid in (0, os.getuid()) and (not mode & 0o022 or bool(mode & stat.S_ISVTX))
