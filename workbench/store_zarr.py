"""What a Zarr store may be before a library opens it: version 3, plain numbers, two codecs, and every chunk there.

A store names the code that decodes it (codecs, data types, storage transformers; in version 2 also objects that are
unpickled), and the sizes that are allocated for it. So its JSON and the heads of its chunks are read here first,
against a list of what this library writes; whatever else it says is refused by name.

Source: the Zarr core specification, version 3.0, 2023; Collet and Kucherawy, Zstandard, 2021, RFC 8878, 3.1.1.1.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import product
from math import prod
from typing import Any

from workbench.errors import TraceError

MOST_BYTES = 4 << 30
"""Of everything in one store, unpacked."""
MOST_NODES = 10_000
MOST_NESTED = 32
_NODE = "zarr.json"
_VERSION_2 = (".zgroup", ".zarray", ".zattrs", ".zmetadata")
_BYTES = {
    "bool": 1, "int8": 1, "int16": 2, "int32": 4, "int64": 8, "uint8": 1, "uint16": 2, "uint32": 4, "uint64": 8,
    "float16": 2, "float32": 4, "float64": 8,
}  # fmt: skip
_GROUP_KEYS = {"zarr_format", "node_type", "attributes", "consolidated_metadata"}
_ARRAY_KEYS = {
    "zarr_format", "node_type", "attributes", "shape", "data_type", "chunk_grid", "chunk_key_encoding", "fill_value",
    "codecs", "dimension_names", "storage_transformers",
}  # fmt: skip
_CHUNK_KEYS = ({"name": "default"}, {"name": "default", "configuration": {"separator": "/"}})
_MAGIC = b"\x28\xb5\x2f\xfd"


def check_members(members: Mapping[str, bytes], incomplete: bool = False) -> None:
    """Pass the files of a store that may be opened.

    Parameters
    ----------
    members : mapping of str to bytes
        Content by name, with slashes, as verified against the manifest.
    incomplete : bool
        Pass a store that lacks chunks; they are read as the fill value.

    Raises
    ------
    TraceError
        For the first thing that is not as it must be.
    """
    nodes: dict[str, dict[str, Any]] = {}
    for name in members:
        folder, _, last = name.rpartition("/")
        if last in _VERSION_2:
            raise TraceError(f"{name}: Zarr version 2 is not read, since its stores may hold code; only version 3 is")
        if last == _NODE:
            nodes[folder] = _node(name, members[name])
    if "" not in nodes or len(nodes) > MOST_NODES:
        raise TraceError(f"the store has {len(nodes):,} nodes and {'a' if '' in nodes else 'no'} root: it is no trace")
    for path in nodes:
        parent = path.rpartition("/")[0]
        if path.count("/") > MOST_NESTED or nodes.get(parent, {}).get("node_type") != "group":
            raise TraceError(f"{path or 'the root'} does not stand in a group")
    arrays = {path: node for path, node in nodes.items() if node["node_type"] == "array"}
    if sum(_size(node["shape"], node) for node in arrays.values()) > MOST_BYTES:
        raise TraceError(f"the store declares more than {MOST_BYTES:,} bytes of numbers, the most that is read")
    known = {f"{path}/{_NODE}".removeprefix("/") for path in nodes}
    for path, node in arrays.items():
        known |= set(_chunks(path, node, members, incomplete))
    if unknown := set(members) - known:
        raise TraceError(f"{min(unknown)} is no part of a trace's Zarr store")


def _node(name: str, content: bytes) -> dict[str, Any]:
    """The metadata of one group or array, checked by itself."""
    try:
        node = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise TraceError(f"{name} is not JSON: {str(error).splitlines()[0]}") from None
    if not isinstance(node, dict) or _depth(node) > MOST_NESTED:
        raise TraceError(f"{name} is no table, or nested too deep")
    if node.get("zarr_format") != 3 or node.get("node_type") not in ("group", "array"):
        raise TraceError(f"{name} is no group or array of Zarr version 3")
    if not isinstance(node.get("attributes", {}), dict):
        raise TraceError(f"{name}: its attributes are no table")
    is_array = node["node_type"] == "array"
    if unknown := set(node) - (_ARRAY_KEYS if is_array else _GROUP_KEYS):
        raise TraceError(f"{name} says {min(unknown)!r}, which this library does not know")
    if node.get("consolidated_metadata") is not None:
        raise TraceError(f"{name} repeats the metadata of others (consolidated_metadata), which is not read")
    if is_array:
        _check_array(name, node)
    return node


def _check_array(name: str, node: dict[str, Any]) -> None:
    kind = node.get("data_type")
    if not isinstance(kind, str) or kind not in _BYTES:
        raise TraceError(f"{name}: the data type {kind!r} is none of plain numbers")
    grid, shape, names = node.get("chunk_grid"), node.get("shape"), node.get("dimension_names")
    chunk = grid["configuration"].get("chunk_shape") if _table(grid, "configuration") else None
    if not _sizes(shape, 0) or not _sizes(chunk, 1) or len(chunk) != len(shape) or grid.get("name") != "regular":
        raise TraceError(f"{name}: its shape and the shape of its chunks do not go together")
    if max(_size(shape, node), _size(chunk, node)) > MOST_BYTES:
        raise TraceError(f"{name} declares more than {MOST_BYTES:,} bytes of numbers, the most that is read")
    if not (isinstance(names, list) and len(names) == len(shape) and all(isinstance(each, str) for each in names)):
        raise TraceError(f"{name} does not name its dimensions")
    if node.get("chunk_key_encoding") not in _CHUNK_KEYS or node.get("storage_transformers"):
        raise TraceError(f"{name} keeps its chunks in a way that this library does not know")
    _check_codecs(name, node)


def _check_codecs(name: str, node: dict[str, Any]) -> None:
    codecs = node.get("codecs")
    if not (isinstance(codecs, list) and all(isinstance(each, dict) for each in codecs)):
        raise TraceError(f"{name} has no list of codecs")
    names = [each.get("name") for each in codecs]
    if names not in (["bytes"], ["bytes", "zstd"]):
        raise TraceError(f"{name} is coded with {names!r:.200}; only bytes, alone or with zstd, is read")
    order = codecs[0].get("configuration", {})
    if order not in ({}, {"endian": "little"}, {"endian": "big"}) or (not order and _BYTES[node["data_type"]] > 1):
        raise TraceError(f"{name}: the order of its bytes is not known")
    if set(codecs[-1].get("configuration", {})) - {"level", "checksum", "endian"}:
        raise TraceError(f"{name}: its zstd codec has settings that are not known")


def _chunks(path: str, node: dict[str, Any], members: Mapping[str, bytes], incomplete: bool) -> Iterator[str]:
    """Names of an array's chunks that are there, each with the size it must have."""
    shape, chunk = node["shape"], node["chunk_grid"]["configuration"]["chunk_shape"]
    counts = [-(-size // part) for size, part in zip(shape, chunk)]
    if not incomplete and prod(counts) > len(members):
        raise TraceError(f"{path} is not complete: it has {prod(counts):,} chunks and the store {len(members):,} files")
    size, packed = _size(chunk, node), len(node["codecs"]) > 1
    prefix = f"{path}/c"
    there = (name for name in members if name == prefix or name.startswith(prefix + "/"))
    for name in there if incomplete else ("/".join([prefix, *map(str, at)]) for at in product(*map(range, counts))):
        if name not in members:
            raise TraceError(
                f"{name} is missing: the store is not complete, or an earlier version wrote it, which left out chunks "
                f"of one value. incomplete=True reads what is missing as {node['fill_value']}"
            )
        if (_frame_size(members[name]) if packed else len(members[name])) != size:
            raise TraceError(f"{name} does not hold the {size:,} bytes of a chunk")
        yield name


def _frame_size(chunk: bytes) -> int | None:
    """Bytes that a Zstandard frame says it unpacks to; None if it does not say, or needs a dictionary."""
    if len(chunk) < 6 or chunk[:4] != _MAGIC or chunk[4] & 3:
        return None
    single = chunk[4] >> 5 & 1
    length = (single, 2, 4, 8)[chunk[4] >> 6]
    size = chunk[6 - single :][:length]
    if not length or len(size) < length:
        return None
    return int.from_bytes(size, "little") + 256 * (length == 2)


def _size(shape: list[int], node: dict[str, Any]) -> int:
    return prod(shape) * _BYTES[node["data_type"]]


def _table(value: Any, key: str) -> bool:
    return isinstance(value, dict) and isinstance(value.get(key), dict)


def _sizes(value: Any, least: int) -> bool:
    return isinstance(value, list) and all(type(each) is int and least <= each < 1 << 62 for each in value)


def _depth(value: Any) -> int:
    """How deep tables and lists stand in one another."""
    depth, level = 0, [value]
    while level := [
        inside
        for each in level
        if isinstance(each, dict | list)
        for inside in (each.values() if isinstance(each, dict) else each)
    ]:
        depth += 1
    return depth
