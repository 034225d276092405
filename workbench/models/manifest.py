"""A manifest beside a model's files: what each must be, so that a damaged or half-written copy is never opened."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from workbench.errors import CorruptModel, UnsafeModel

MANIFEST = "manifest.json"
JSON_LIMIT = 64_000_000  # bytes; the largest vocabularies take about half
SETTINGS_LIMIT = 8_000_000  # bytes of a configuration
_VALUES_LIMIT = 8_000_000  # commas and brackets: an empty list is two bytes in a file, and sixty in memory


def check_manifest(folder: Path, full: bool = False) -> bool:
    """Check files against ``manifest.json``: size and time of change, and the SHA-256 where those moved or `full`.

    Returns
    -------
    bool
        Whether there is a manifest of this library's form. Another tool's ``manifest.json`` is left alone.
    """
    file = folder / MANIFEST
    if not file.is_file():
        return False
    listed = read_json(file).get("files")
    entries = list(listed.values()) if isinstance(listed, dict) else [None]
    if not all(isinstance(entry, dict) and {"bytes", "sha256"} <= set(entry) for entry in entries):
        return False
    for name, entry in listed.items():
        member = folder / plain_name(name, MANIFEST)
        if not member.is_file():
            raise CorruptModel(f"{name} is missing from {folder}.")
        facts = member.stat()
        if facts.st_size != entry["bytes"]:
            raise CorruptModel(f"{name} in {folder} has {facts.st_size} bytes; its manifest says {entry['bytes']}.")
        if (full or facts.st_mtime_ns != entry.get("modified_ns")) and sha256(member) != entry["sha256"]:
            raise CorruptModel(f"{name} in {folder} does not have the checksum in its manifest.")
    return True


def write_manifest(folder: Path, **facts: Any) -> None:
    """List every file of a folder with its size, SHA-256 and time of change, beside what else is to be remembered."""
    files = {}
    for file in sorted(folder.iterdir()):
        about = file.stat()
        files[file.name] = {"bytes": about.st_size, "sha256": sha256(file), "modified_ns": about.st_mtime_ns}
    (folder / MANIFEST).write_text(json.dumps({**facts, "files": files}, indent=1) + "\n")


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_size(file: Path, limit: int = JSON_LIMIT) -> None:
    """Refuse what is no plain file of at most `limit` bytes, or JSON of too many values, before anything parses it."""
    if not file.is_file() or file.stat().st_size > limit:
        raise CorruptModel(
            f"{file.name} is no plain file, or larger than the {limit:,} bytes that are read of its kind."
        )
    if file.suffix == ".json":
        with file.open("rb") as opened:
            values = sum(sum(map(part.count, (b",", b"[", b"{"))) for part in iter(lambda: opened.read(2**20), b""))
        if values > _VALUES_LIMIT:
            raise CorruptModel(f"{file.name} holds more than {_VALUES_LIMIT:,} values.")


def read_json(file: Path, anything: bool = False, limit: int = JSON_LIMIT) -> Any:
    """The content of a JSON file of at most `limit` bytes: a table, or with `anything` whatever it holds.

    Raises
    ------
    CorruptModel
        If it is too large, not JSON, or not a table.
    """
    check_size(file, limit)
    try:
        content = json.loads(file.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise CorruptModel(f"{file.name} is not JSON: {error}") from None
    if not anything and not isinstance(content, dict):
        raise CorruptModel(f"{file.name} is not a table.")
    return content


def plain_name(name: Any, source: str) -> str:
    """The name if it is that of a file in the same folder, or `UnsafeModel`."""
    if not isinstance(name, str) or name in ("", ".", "..") or set(name) & set("/\\:\0"):
        raise UnsafeModel(f"{source} names the file {name!r}, which lies outside its folder. It was refused.")
    return name
