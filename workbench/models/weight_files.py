"""The structure of safetensors and GGUF files, checked byte by byte before any library is given them.

Both readers here look at headers only: they allocate no tensor, believe no length that the file is too short for, and
run nothing. A file that passes can be opened by ``safetensors`` or ``gguf`` without surprises.

Source: the safetensors format description (Hugging Face, 2022) and the GGUF specification (ggml authors, 2023),
versions 2 and 3, little-endian. Deviates: GGUF arrays of arrays are refused, as no writer makes them.
"""

from __future__ import annotations

import json
import math
import mmap
import re
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workbench.errors import CorruptModel, UnsafeModel

HEADER_LIMIT = 16_000_000  # bytes, some 100,000 tensors; read as JSON it takes up to twenty times that
ENTRIES_PER_TOKEN = 8  # of all arrays of a GGUF file; its reader makes several objects of each

_BITS = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8}
_BITS |= {"F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32}
_BITS |= {"F32": 32, "I64": 64, "U64": 64, "F64": 64, "C64": 64}
_PICKLE = re.compile(rb"\x80[\x02-\x05]|PK\x03\x04|\(*c[\w.]+\n[\w.]+\n")
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9


@dataclass
class Contents:
    """What a weight file says it holds.

    Attributes
    ----------
    names : set of str
        Of its tensors.
    size : int
        Bytes of tensor data.
    elements : int
        Numbers in its tensors.
    settings : dict
        Scalars and short strings of a GGUF file's metadata; empty for safetensors.
    integers : set of str
        Names of the tensors of a safetensors file that hold whole numbers or booleans.
    """

    names: set[str]
    size: int
    elements: int
    settings: dict[str, Any] = field(default_factory=dict)
    integers: set[str] = field(default_factory=set)


def read_safetensors(path: Path) -> Contents:
    """Check the header of a safetensors file against the file itself.

    Raises
    ------
    UnsafeModel
        If the file is a pickle under a false name.
    CorruptModel
        If the header is truncated, outsized or not JSON, or its tensors lie outside the file, overlap, leave gaps, or
        do not have the bytes their shape and type ask for.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(64)
        length = int.from_bytes(head[:8], "little")
        if len(head) < 8 or length > size - 8 or length > HEADER_LIMIT or length < 2:
            raise _not_weights(path, head, f"its header claims {length:,} bytes in a file of {size:,}")
        file.seek(8)
        text = file.read(length)
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _not_weights(path, head, f"its header is not JSON ({error})") from None
    if not isinstance(header, dict):
        raise _not_weights(path, head, "its header is not a table of tensors")
    header.pop("__metadata__", None)
    end = 0
    spans = sorted((_span(path, name, entry) for name, entry in header.items()), key=lambda span: span[:2])
    for start, stop, name in spans:
        if start != end:
            raise CorruptModel(f"{path.name} is damaged: tensor {name} starts at {start:,} where {end:,} is due")
        end = stop
    if end != size - 8 - length:
        raise CorruptModel(f"{path.name} is damaged: it holds {size - 8 - length:,} bytes of tensors, not {end:,}")
    integers = {name for name, entry in header.items() if entry["dtype"][0] in "IUB" and entry["dtype"] != "BF16"}
    return Contents(set(header), end, sum(math.prod(entry["shape"]) for entry in header.values()), integers=integers)


def _span(path: Path, name: str, entry: Any) -> tuple[int, int, str]:
    """First and last byte of one tensor, or `CorruptModel` if its entry contradicts itself."""
    try:
        bits, shape, (start, stop) = _BITS[entry["dtype"]], entry["shape"], entry["data_offsets"]
    except (KeyError, TypeError, ValueError):
        raise CorruptModel(f"{path.name} is damaged: the entry of tensor {name} cannot be read") from None
    whole = [start, stop, *shape] if isinstance(shape, list) and len(shape) <= 16 else [-1]
    if not all(type(number) is int and 0 <= number < 2**48 for number in whole):
        raise CorruptModel(f"{path.name} is damaged: tensor {name} has an impossible shape or place")
    if (stop - start) * 8 != math.prod(shape) * bits:
        raise CorruptModel(f"{path.name} is damaged: tensor {name} of shape {shape} has {stop - start:,} bytes")
    return start, stop, name


def read_gguf(path: Path) -> Contents:
    """Check the header, metadata and tensor table of a GGUF file against the file itself.

    Raises
    ------
    UnsafeModel
        If the file is a pickle under a false name.
    CorruptModel
        If it is truncated, of another version, or its counts, strings or tensors do not fit into it.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(64)
        if head[:4] != b"GGUF" or size < 24:
            raise _not_weights(path, head, "it does not begin as a GGUF file does")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                return _gguf_contents(_Cursor(data, path.name))
            except (struct.error, UnicodeDecodeError) as error:
                raise CorruptModel(f"{path.name} is damaged: its metadata cannot be read ({error})") from None


def _gguf_contents(cursor: _Cursor) -> Contents:
    from gguf import GGML_QUANT_SIZES

    version, tensors, pairs = (cursor.number(kind) for kind in "IQQ")
    if version not in (2, 3):
        raise cursor.damaged(f"version {version} is not 2 or 3")
    cursor.fits(tensors, 24, "tensors")
    cursor.fits(pairs, 13, "metadata entries")
    settings = dict(cursor.pair() for _ in range(pairs))
    alignment = settings.get("general.alignment", 32)
    if type(alignment) is not int or not 8 <= alignment <= 2**20 or alignment & (alignment - 1):
        raise cursor.damaged(f"alignment {alignment} is not a power of two")
    spans, names, elements, longest = [], set(), 0, 0
    for _ in range(tensors):
        name, rank = cursor.text(), cursor.number("I")
        if name in names or rank > 8:
            raise cursor.damaged(f"tensor {name!r} is there twice or has {rank} dimensions")
        names.add(name)
        shape = [cursor.number("Q") for _ in range(rank)]
        kind, start = cursor.number("I"), cursor.number("Q")
        if kind not in GGML_QUANT_SIZES:
            raise cursor.damaged(f"tensor {name!r} has the unknown number format {kind}")
        block, width = GGML_QUANT_SIZES[kind]
        if max(shape, default=1) >= 2**48 or math.prod(shape) % block or start % alignment:
            raise cursor.damaged(f"tensor {name!r} of shape {shape} does not fit its number format or place")
        elements += math.prod(shape)
        longest = max(longest, *shape) if shape else longest
        spans.append((start, start + math.prod(shape) // block * width, name))
    base, end = -(-cursor.place // alignment) * alignment, 0
    for start, stop, name in sorted(spans):
        if start < end or base + stop > len(cursor.data):
            raise cursor.damaged(f"tensor {name!r} overlaps another or lies outside the file")
        end = stop
    # Tokens, their scores, kinds and merges come to five a token or less.
    if cursor.entries > 100_000 + ENTRIES_PER_TOKEN * longest:
        raise cursor.damaged(f"its metadata has {cursor.entries:,} entries for {longest:,} tokens")
    return Contents(names, end, elements, settings)


class _Cursor:
    """A place in a GGUF file that never moves past the end."""

    def __init__(self, data: mmap.mmap, name: str):
        self.data, self.name, self.place, self.entries = data, name, 4, 0

    def damaged(self, reason: str) -> CorruptModel:
        return CorruptModel(f"{self.name} is damaged: {reason}")

    def fits(self, count: int, width: int, what: str) -> None:
        left = len(self.data) - self.place
        if count * width > left:
            raise self.damaged(f"it claims {count:,} {what} in the {left:,} bytes that are left")

    def number(self, kind: str) -> Any:
        (value,) = struct.unpack_from(f"<{kind}", self.data, self.place)
        self.place += struct.calcsize(f"<{kind}")
        return value

    def skip_text(self) -> int:
        length = self.number("Q")
        self.fits(length, 1, "characters")
        self.place += length
        return length

    def text(self) -> str:
        length = self.skip_text()
        return self.data[self.place - length : self.place].decode()

    def pair(self) -> tuple[str, Any]:
        """One metadata entry; a long text or an array is stepped over and stands as None."""
        key, kind = self.text(), self.number("I")
        if kind == _STRING:
            length = self.skip_text()
            return key, self.data[self.place - length : self.place].decode() if length <= 1000 else None
        if kind == _ARRAY:
            inner, count = self.number("I"), self.number("Q")
            self.entries += count
            if inner == _STRING:
                self.fits(count, 8, "texts")
                for _ in range(count):
                    self.skip_text()
            elif inner in _SCALARS:
                width = struct.calcsize(f"<{_SCALARS[inner]}")
                self.fits(count, width, "numbers")
                self.place += count * width
            else:
                raise self.damaged(f"{key} is an array of the unknown type {inner}")
            return key, None
        if kind not in _SCALARS:
            raise self.damaged(f"{key} has the unknown type {kind}")
        return key, self.number(_SCALARS[kind])


def _not_weights(path: Path, head: bytes, reason: str) -> UnsafeModel | CorruptModel:
    """The error for a file that is not what its name says, as plain as its first bytes allow."""
    if _PICKLE.match(head):
        return UnsafeModel(f"{path.name} is a pickle under another name; opening it could run code. It was refused.")
    if head.startswith(b"version https://git-lfs"):
        return CorruptModel(f"{path.name} is a Git LFS pointer, not the weights: run `git lfs pull` in its folder")
    return CorruptModel(f"{path.name} is damaged: {reason}")
