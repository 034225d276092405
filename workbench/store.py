"""Traces on disk: a Zarr folder or one netCDF file, whole or not there, and never silently wrong.

A Zarr store that lost a chunk would read back as NaN, so a folder is written once and never changed: beside Zarr's own
files it holds ``manifest.json`` with the SHA-256 of each and, written last, ``status.json`` with the manifest's own. It
grows in a temporary folder next to its place and is moved there in one step. A netCDF file ends with the SHA-256 of all
that stands before; HDF5 readers do not look beyond their own end, so other tools read it as usual.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np
import xarray as xr

from workbench.errors import TraceError
from workbench.files import PARTIAL, is_there
from workbench.store_zarr import MOST_BYTES, check_members

MANIFEST, STATUS = "manifest.json", "status.json"
_SUFFIXES = (".zarr", ".nc")
_FINITE = "all_finite"
_SEAL = b"\nworkbench sha256 "
_SEAL_LENGTH = len(_SEAL) + 64
_JSON_LIMIT = 64_000_000  # bytes


def write(tree: xr.DataTree, path: str | Path) -> Path:
    """Store a tree under a name that ends in ``.zarr`` (a folder) or ``.nc`` (one netCDF file).

    A Zarr store is never changed once it is there; a netCDF file is an export and is replaced.

    Raises
    ------
    TraceError
        If the name ends otherwise, the Zarr store exists already, or the disk refuses.
    """
    path = Path(path)
    suffix = _suffix(path)
    if path.is_symlink():
        raise TraceError(f"{path} is a link: give the place itself")
    if suffix == ".zarr" and path.exists():
        raise TraceError(f"{path} exists already, and a stored trace is never changed: choose another name")
    if tree.nbytes > MOST_BYTES:
        raise TraceError(f"the trace has {tree.nbytes:,} bytes, and {MOST_BYTES:,} are the most that is read back")
    marked = _mark(tree)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _partial(path) as scratch:
            if suffix == ".zarr":
                built = scratch / "store"
                # Every chunk is written, so that one that is not there was lost.
                marked.to_zarr(built, mode="w-", consolidated=False, zarr_format=3, write_empty_chunks=True)
                _seal_folder(built)
            else:
                built = scratch / "store.nc"
                # Made in memory: HDF5 on a full disk writes pages of errors, and what is left is of no use.
                built.write_bytes(marked.to_netcdf(engine="h5netcdf"))
                with built.open("ab") as file:
                    file.write(_SEAL + _digest(built).encode())
                    file.flush()
                    os.fsync(file.fileno())
            os.replace(built, path)
    except OSError as error:
        raise TraceError(f"{path} could not be written: {error.strerror or error}") from error
    return path


def read(path: str | Path, incomplete: bool = False) -> xr.DataTree:
    """Read a tree back into memory, every checksum verified first, and nothing that this library does not write.

    Parameters
    ----------
    path : path
    incomplete : bool
        Read a store that lacks numbers all the same. Those of earlier versions may: chunks of one value were left out.

    Raises
    ------
    TraceError
        If there is nothing, the writing was interrupted ("incomplete"), or a file is missing, damaged, unknown, a link,
        or outside the store; it names the file. If a store is not complete, holds what this library does not write
        (:mod:`workbench.store_zarr`, :mod:`workbench.store_netcdf`), or NaN where numbers were stored.
    """
    path = Path(path)
    suffix = _suffix(path)
    if not is_there(path):
        if is_there(path.parent) and _leftovers(path):
            raise TraceError(f"{path} is incomplete: its writing was interrupted, and nothing of it can be trusted")
        raise TraceError(f"there is no trace at {path}")
    if path.is_symlink() or path.is_dir() != (suffix == ".zarr"):
        raise TraceError(f"{path} is not a {'folder' if suffix == '.zarr' else 'file'} of its own")
    try:
        content = _verified_members(path) if suffix == ".zarr" else _verified_content(path)
    except OSError as error:
        raise TraceError(f"{path} could not be read: {error.strerror or error}") from error
    try:
        return _unmark((_open_folder if isinstance(content, dict) else _open_file)(content, incomplete))
    except Exception as error:  # a stranger's file makes the libraries under this raise whatever they raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        state = "is refused" if isinstance(error, TraceError) else "is damaged"
        raise TraceError(f"{path} {state}: {reason}") from error


def entries(folder: str | Path) -> list[tuple[Path, str]]:
    """Traces in a folder, by name, each with "complete" or "incomplete"; checksums are left to :func:`read`.

    A store that an interrupted write left behind is listed under the name it was to have, unless that is there.
    """
    folder = Path(folder)
    states: dict[Path, str] = {}
    for item in sorted(folder.iterdir()) if folder.is_dir() else ():
        if item.is_symlink():
            continue
        if item.name.startswith(".") and item.name.endswith(PARTIAL):
            meant = folder / item.name[1:].rsplit("~", 1)[0]
            if meant.suffix in _SUFFIXES:
                states.setdefault(meant, "incomplete")
        elif item.suffix == ".zarr" and item.is_dir():
            states[item] = "complete" if (item / STATUS).is_file() else "incomplete"
        elif item.suffix == ".nc" and item.is_file():
            states[item] = "complete" if _seal_of(item) else "incomplete"
    return sorted(states.items())


def _suffix(path: Path) -> str:
    if path.suffix not in _SUFFIXES:
        raise TraceError(f"a trace is stored as .zarr or .nc, and {path.name!r} ends in neither")
    return path.suffix


@contextlib.contextmanager
def _partial(path: Path) -> Iterator[Path]:
    """A scratch folder on the same disk whose name says what it was to become."""
    scratch = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}~", suffix=PARTIAL))
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _leftovers(path: Path) -> bool:
    if not path.parent.is_dir():
        return False
    return any(item.name.startswith(f".{path.name}~") and item.name.endswith(PARTIAL) for item in path.parent.iterdir())


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _members(folder: Path) -> list[str]:
    """Every file below a folder, as names with slashes; a link or anything that is no plain file is refused."""
    members = []
    for parent, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            item = Path(parent, name)
            if item.is_symlink() or not (item.is_dir() or item.is_file()):
                raise TraceError(f"{item.relative_to(folder)} in {folder} is a link or no plain file")
        members += [Path(parent, name).relative_to(folder).as_posix() for name in files]
    return sorted(members)


def _seal_folder(folder: Path) -> None:
    files = {
        name: {"bytes": (folder / name).stat().st_size, "sha256": _digest(folder / name)} for name in _members(folder)
    }
    (folder / MANIFEST).write_text(json.dumps({"files": files}, indent=1), "utf-8")
    status = {"status": "complete", "manifest_sha256": _digest(folder / MANIFEST)}
    (folder / STATUS).write_text(json.dumps(status), "utf-8")


def _verified_members(folder: Path) -> dict[str, bytes]:
    """The content of every file that the manifest lists, checksums verified."""
    present = set(_members(folder)) - {MANIFEST, STATUS}
    if not (folder / STATUS).is_file():
        raise TraceError(f"{folder} is incomplete: it has no {STATUS}, so its writing was interrupted")
    if not (folder / MANIFEST).is_file():
        raise TraceError(f"{MANIFEST} is missing from {folder}")
    if _read_json(folder / STATUS).get("manifest_sha256") != _digest(folder / MANIFEST):
        raise TraceError(f"{MANIFEST} in {folder} is damaged: its checksum is not the one in {STATUS}")
    manifest = _read_json(folder / MANIFEST).get("files")
    if not isinstance(manifest, dict):
        raise TraceError(f"{MANIFEST} in {folder} lists no files")
    _check_size(folder, sum((folder / name).stat().st_size for name in present))
    contents = {}
    for name, entry in manifest.items():
        parts = PurePosixPath(name).parts
        if not parts or ".." in parts or PurePosixPath(name).is_absolute() or "\\" in name:
            raise TraceError(f"{MANIFEST} in {folder} names a file outside it: {name!r}")
        if name not in present:
            raise TraceError(f"{name} is missing from {folder}")
        contents[name] = (folder / name).read_bytes()
        if not isinstance(entry, dict) or hashlib.sha256(contents[name]).hexdigest() != entry.get("sha256"):
            raise TraceError(f"{name} in {folder} is damaged: its checksum is not the one in {MANIFEST}")
    unknown = present - set(manifest)
    if unknown:
        raise TraceError(f"{min(unknown)} in {folder} is not in its {MANIFEST}: the store was changed")
    return contents


def _open_folder(members: dict[str, bytes], incomplete: bool) -> xr.DataTree:
    """A tree from the very bytes that were verified, so that nothing can change in between."""
    check_members(members, incomplete)
    from zarr.buffer.cpu import Buffer
    from zarr.storage import MemoryStore

    store = MemoryStore({name: Buffer.from_bytes(content) for name, content in members.items()}, read_only=True)
    return _in_memory(xr.open_datatree(store, engine="zarr", consolidated=False, decode_times=False))


def _open_file(content: bytes, incomplete: bool) -> xr.DataTree:
    """The same of a netCDF file."""
    import h5py

    from workbench.store_netcdf import check_file

    with h5py.File(io.BytesIO(content), "r") as file:
        check_file(file, incomplete)
    with xr.open_datatree(io.BytesIO(content), engine="h5netcdf", decode_times=False) as tree:
        return _in_memory(tree)


def _in_memory(tree: xr.DataTree) -> xr.DataTree:
    """The tree with its numbers read, and attributes as Python's own: netCDF gives numpy's, which JSON does not take.

    ``DataTree.load`` leaves out a variable that is called like a group.
    """
    for node in tree.subtree:
        for held in (node, *(array.load() for array in node.variables.values())):
            held.attrs.update({key: value.item() for key, value in held.attrs.items() if isinstance(value, np.generic)})
    return tree


def _seal_of(file: Path) -> str | None:
    """The checksum a netCDF file ends with; None if it ends otherwise."""
    size = file.stat().st_size
    if size < _SEAL_LENGTH:
        return None
    with file.open("rb") as stream:
        stream.seek(size - _SEAL_LENGTH)
        seal = stream.read()
    return seal[len(_SEAL) :].decode("ascii", "replace") if seal.startswith(_SEAL) else None


def _verified_content(file: Path) -> bytes:
    """What stands before the checksum that a netCDF file ends with."""
    seal = _seal_of(file)
    if seal is None:
        raise TraceError(f"{file} is incomplete or damaged, or was not written by this library: it has no checksum")
    _check_size(file, file.stat().st_size)
    content = file.read_bytes()[:-_SEAL_LENGTH]
    if hashlib.sha256(content).hexdigest() != seal:
        raise TraceError(f"{file} is damaged: its content does not have the checksum it ends with")
    return content


def _check_size(path: Path, size: int) -> None:
    if size > MOST_BYTES:
        raise TraceError(f"{path} has {size:,} bytes; {MOST_BYTES:,} are the most that is read")


def _mark(tree: xr.DataTree) -> xr.DataTree:
    """The tree with a mark on every variable whose numbers are all finite: so they must come back."""
    tree = tree.copy()
    for node in tree.subtree:
        for array in node.variables.values():
            if array.dtype.kind == "f" and np.isfinite(array.values).all():
                array.attrs[_FINITE] = 1
    return tree


def _unmark(tree: xr.DataTree) -> xr.DataTree:
    """The tree without the marks, if they hold."""
    for node in tree.subtree:
        for name, array in node.variables.items():
            if array.attrs.pop(_FINITE, 0) and not np.isfinite(array.values).all():
                raise TraceError(f"{node.path.rstrip('/')}/{name} holds NaN or infinity where numbers were stored")
    return tree


def _read_json(file: Path) -> dict:
    try:
        if file.stat().st_size > _JSON_LIMIT:
            raise ValueError("too large")
        content = json.loads(file.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise TraceError(f"{file.name} in {file.parent} is damaged: {error}") from None
    if not isinstance(content, dict):
        raise TraceError(f"{file.name} in {file.parent} is damaged: it is no table")
    return content
