"""The header of a safetensors file, read with suspicion.

The format: eight bytes, little endian, give the length of a JSON object; the object maps names to
dtype, shape and a range of the bytes that follow. Everything in it is checked against the file's
size before a byte of weights is read.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

from taskloom.errors import CheckpointError
from taskloom.store.cache import file_mark
from taskloom.store.checkpoint import TensorInfo

#: safetensors' name of a dtype -> torch's name
DTYPES: Mapping[str, str] = MappingProxyType(
    {
        "F64": "float64",
        "F32": "float32",
        "F16": "float16",
        "BF16": "bfloat16",
        "F8_E4M3": "float8_e4m3fn",
        "F8_E5M2": "float8_e5m2",
        "F8_E8M0": "float8_e8m0fnu",
        "I64": "int64",
        "I32": "int32",
        "I16": "int16",
        "I8": "int8",
        "U64": "uint64",
        "U32": "uint32",
        "U16": "uint16",
        "U8": "uint8",
        "BOOL": "bool",
        "C64": "complex64",
    }
)
NAMES: Mapping[str, str] = MappingProxyType({dtype: name for name, dtype in DTYPES.items()})

_MAX_HEADER = 100_000_000
_MAX_DIMENSIONS = 64
_MAX_BYTES = 2**63 - 1
_WAY_OUT = "The file is damaged or was made to mislead; get it again from its source"


@dataclass(frozen=True)
class Header:
    """What a safetensors file says it holds, after every check.

    Attributes
    ----------
    tensors
        Shape and dtype by name, in the order of the bytes.
    offsets
        First byte of each tensor, counted from the start of the file.
    metadata
        Free-form strings.
    mark
        Size, modification time and inode of the file when the header was read.
    """

    path: Path
    tensors: Mapping[str, TensorInfo]
    offsets: Mapping[str, int]
    metadata: Mapping[str, str]
    mark: tuple[int, ...]


def read_header(path: str | os.PathLike[str]) -> Header:
    """Read and check the header of a safetensors file.

    Raises
    ------
    CheckpointError
        The file is missing or unreadable, shorter than its header says, not JSON, names a tensor
        twice, or gives a dtype, shape or byte range that cannot be.
    """
    file = Path(path)
    try:
        mark = tuple(file_mark(file)[:3])
        with file.open("rb") as stream:
            parsed = parse_header(file, mark[0], lambda start, stop: stream.read(stop - start))
    except OSError as error:
        raise CheckpointError(
            f"{file}: cannot be read: {error.strerror or error}",
            hint="Check the path and its permissions",
        ) from error
    return Header(file, *parsed, mark)


def parse_header(
    file: object, size: int, fetch: Callable[[int, int], bytes]
) -> tuple[dict[str, TensorInfo], dict[str, int], Mapping[str, str]]:
    """Return tensors, offsets and metadata of a header, wherever its bytes come from.

    Parameters
    ----------
    file
        How messages call it.
    size
        Bytes of the whole file.
    fetch
        Returns the bytes from one position up to another; called for the first eight, then for
        the header.

    Raises
    ------
    CheckpointError
        As `read_header`.
    """
    length = _length(file, fetch(0, min(8, size)), size)
    table = _parse(file, fetch(8, 8 + length))
    metadata = _metadata(file, table.pop("__metadata__", None))
    spans = [(*_span(file, name, entry), name) for name, entry in table.items()]
    spans.sort(key=lambda span: (span[0], span[1]))
    _check_cover(file, spans, size - 8 - length)
    tensors = {name: info for _, _, info, name in spans}
    offsets = {name: 8 + length + start for start, _, _, name in spans}
    return tensors, offsets, metadata


def _refuse(file: object, what: str, tensor: str | None = None) -> NoReturn:
    where = f"{file}: tensor {tensor!r}" if tensor is not None else str(file)
    raise CheckpointError(f"{where}: {what}", hint=_WAY_OUT)


def _length(file: object, prefix: bytes, size: int) -> int:
    if len(prefix) < 8:
        _refuse(file, f"expected at least 8 bytes, found {len(prefix)}; no safetensors file")
    length = int.from_bytes(prefix, "little")
    if length > size - 8:
        _refuse(file, f"the header should have {length} bytes, but the file has only {size}")
    if length > _MAX_HEADER:
        _refuse(file, f"a header of at most {_MAX_HEADER} bytes is allowed, found {length}")
    return length


class _DuplicateKeyError(ValueError):
    """A JSON object that names a key twice."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        raise _DuplicateKeyError(Counter(key for key, _ in pairs).most_common(1)[0][0])
    return table


def strict_json(text: str) -> Any:
    """Parse JSON, refusing objects that name a key twice.

    Raises
    ------
    ValueError
        Not JSON, nested too deeply, or a key given twice.

    >>> strict_json('{"a": 1, "a": 2}')
    Traceback (most recent call last):
    ...
    ValueError: the key 'a' is given twice
    """
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except _DuplicateKeyError as error:
        raise ValueError(f"the key {str(error)!r} is given twice") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _parse(file: object, raw: bytes) -> dict[str, Any]:
    try:
        table = strict_json(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        _refuse(file, f"expected a header in UTF-8, found byte {raw[error.start]:#04x}")
    except ValueError as error:
        _refuse(file, f"expected a JSON header, but {error}")
    if not isinstance(table, dict):
        _refuse(file, f"expected a JSON object as header, found {type(table).__name__}")
    return table


def _metadata(file: object, found: Any) -> Mapping[str, str]:
    if found is None:
        return {}
    if not isinstance(found, dict) or not all(isinstance(text, str) for text in found.values()):
        _refuse(file, "expected metadata that maps strings to strings")
    return found


def _span(file: object, name: str, entry: Any) -> tuple[int, int, TensorInfo]:
    if not name.isascii() and any("\ud800" <= letter <= "\udfff" for letter in name):
        _refuse(file, "expected a name in Unicode, found half of a surrogate pair", name)
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        _refuse(file, "expected exactly dtype, shape and data_offsets", name)
    dtype = DTYPES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    if dtype is None:
        _refuse(file, f"expected a dtype of {', '.join(DTYPES)}, found {entry['dtype']!r}", name)
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not _counts(shape) or len(shape) > _MAX_DIMENSIONS:
        _refuse(file, f"expected a shape of non-negative integers, found {_short(shape)}", name)
    padded = TensorInfo((), dtype).nbytes
    for size in shape:
        padded *= max(size, 1)
    if padded > _MAX_BYTES:
        _refuse(file, f"the shape {_short(shape)} is larger than any memory", name)
    if not _counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        _refuse(file, f"expected data_offsets [begin, end], found {_short(offsets)}", name)
    info = TensorInfo(tuple(shape), dtype)
    if offsets[1] - offsets[0] != info.nbytes:
        _refuse(
            file,
            f"shape {_short(shape)} of {entry['dtype']} takes {info.nbytes} bytes, "
            f"found data_offsets {offsets} of {offsets[1] - offsets[0]} bytes",
            name,
        )
    return offsets[0], offsets[1], info


def _counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(each) is int and each >= 0 for each in value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _check_cover(file: object, spans: list[tuple[int, int, TensorInfo, str]], size: int) -> None:
    """Tensors must follow one another without gap or overlap and fill the file exactly."""
    end, previous = 0, ""
    for start, stop, _, name in spans:
        if start < end:
            _refuse(file, f"starts at byte {start}, inside {previous!r} that ends at {end}", name)
        if start > end:
            _refuse(file, f"expected to start at byte {end}, found {start}: a gap", name)
        if stop > size:
            _refuse(file, f"ends at byte {stop}, but the file has only {size}: truncated", name)
        end, previous = stop, name
    if end != size:
        _refuse(file, f"expected {end} bytes of tensors after the header, found {size}")
