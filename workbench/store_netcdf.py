"""What a netCDF file may be before it is read: numbers that lie in the file itself, all of them.

HDF5, which netCDF is written in, can point anywhere: at other files (external links, external storage, virtual
datasets), at other places by name (soft links), at plugins by number (filters). Nothing of that is in a file that this
library wrote, so a file that has any is refused before a number is read.
"""

from __future__ import annotations

from math import prod
from typing import Any

import h5py

from workbench.errors import TraceError
from workbench.store_zarr import MOST_BYTES, MOST_NESTED, MOST_NODES

_FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32}
_BARE = b"This is a netCDF dimension but not a netCDF variable"
_LINKS = {h5py.h5l.TYPE_SOFT: "a soft link", h5py.h5l.TYPE_EXTERNAL: "a link to another file"}
_MOST_ATTRIBUTE = 64_000_000  # bytes


def check_file(file: h5py.File, incomplete: bool = False) -> None:
    """Pass an HDF5 file that may be read as netCDF.

    Parameters
    ----------
    file : h5py.File
    incomplete : bool
        Pass a file with numbers that were never written; they are read as the fill value.

    Raises
    ------
    TraceError
        For the first thing that is not as it must be.
    """
    seen: set[int] = set()
    waiting: list[tuple[h5py.Group, int]] = [(file, 0)]
    total = 0
    while waiting:
        group, depth = waiting.pop()
        _attributes(group)
        for name in group:
            link = group.id.links.get_info(name.encode("utf-8", "surrogateescape")).type
            where = f"{group.name.rstrip('/')}/{name}"
            if link != h5py.h5l.TYPE_HARD:
                raise TraceError(f"{where} is {_LINKS.get(link, 'a link of an unknown kind')}, which is not followed")
            item = group[name]
            place = h5py.h5o.get_info(item.id).addr
            if place in seen or len(seen) >= MOST_NODES or depth > MOST_NESTED:
                raise TraceError(f"{where} is a second name of something, or there is too much in the file")
            seen.add(place)
            if isinstance(item, h5py.Group):
                waiting.append((item, depth + 1))
            elif isinstance(item, h5py.Dataset):
                total += _dataset(where, item, incomplete)
            else:
                raise TraceError(f"{where} is neither a group nor numbers")
            if total > MOST_BYTES:
                raise TraceError(f"the file declares more than {MOST_BYTES:,} bytes of numbers, the most that is read")


def _dataset(where: str, data: h5py.Dataset, incomplete: bool) -> int:
    """Bytes of one dataset that may be read."""
    _attributes(data)
    made = data.id.get_create_plist()
    if made.get_external_count():
        raise TraceError(f"{where} keeps its numbers in another file, which is not read")
    if made.get_layout() == h5py.h5d.VIRTUAL:
        raise TraceError(f"{where} takes its numbers from other places, which are not read")
    filters = {made.get_filter(number)[0] for number in range(made.get_nfilters())}
    if filters - _FILTERS:
        raise TraceError(f"{where} is packed with the filter {min(filters - _FILTERS)}, which is not known")
    if data.dtype.kind not in "biuf" or data.shape is None:
        raise TraceError(f"{where} holds {data.dtype}, not numbers")
    size = prod(data.shape) * data.dtype.itemsize
    parts = prod(data.chunks) * data.dtype.itemsize if data.chunks else 0
    if max(size, parts) > MOST_BYTES:
        raise TraceError(f"{where} declares more than {MOST_BYTES:,} bytes of numbers, the most that is read")
    if not incomplete and not _bare(data) and not _whole(data, size):
        raise TraceError(f"{where} is not complete: some of its numbers were never written")
    return size


def _whole(data: h5py.Dataset, size: int) -> bool:
    if not data.chunks:
        return data.id.get_storage_size() == size
    wanted = prod(-(-length // part) for length, part in zip(data.shape, data.chunks))
    return data.id.get_num_chunks() == wanted


def _bare(data: h5py.Dataset) -> bool:
    """Whether this only tells the length of a dimension; its numbers are read by nobody."""
    name = data.attrs.get("NAME", b"")
    return isinstance(name, bytes) and name.startswith(_BARE)


def _attributes(node: Any) -> None:
    for name in node.attrs:
        about = node.attrs.get_id(name)
        if about.get_storage_size() > _MOST_ATTRIBUTE or prod(about.shape or ()) > _MOST_ATTRIBUTE:
            raise TraceError(f"the attribute {name!r} of {node.name} is too large")
