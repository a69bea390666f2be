"""Weights in an object store, read range by range through fsspec; nothing is downloaded whole."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from taskloom.errors import CheckpointError, MissingExtra, SourceUnreachable, nearest
from taskloom.lazy import Tensor, torch
from taskloom.store.access import check_relative, info_of, row_range
from taskloom.store.adapter import CONFIG
from taskloom.store.adapter import WEIGHTS as ADAPTER_WEIGHTS
from taskloom.store.atomic import atomic_directory
from taskloom.store.cache import cache_root, canonical_digest
from taskloom.store.checkpoint import TensorInfo
from taskloom.store.digest import combine_digests
from taskloom.store.header import parse_header
from taskloom.store.safetensors_dir import INDEX, WEIGHTS, compare, parse_weight_map
from taskloom.store.template import is_template

T = TypeVar("T")

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://(.+)", re.DOTALL)
_LOCAL = ("file", "local")
_CHUNK = 1 << 23
_MAX_SMALL = 100_000_000


def is_url(text: str) -> bool:
    """Tell whether ``text`` is ``protocol://...``.

    >>> is_url("s3://bucket/model"), is_url("owner/model"), is_url("C:/model")
    (True, False, False)
    """
    return _URL.fullmatch(text) is not None


def local_path(url: str) -> Path | None:
    """Return the path that a ``file://`` address names, None for any other.

    >>> local_path("file:///models/base").as_posix(), local_path("s3://bucket/base")
    ('/models/base', None)
    """
    protocol, _, rest = url.partition("://")
    return Path(rest) if protocol.lower() in _LOCAL else None


def without_password(url: str) -> str:
    """Return an address as it may be told.

    >>> without_password("ftp://me:secret@host/models")
    'ftp://host/models'
    """
    return re.sub(r"://[^/@:]*:[^/@]*@", "://", url)


@dataclass(frozen=True)
class Found:
    """One object: its address and what changes when it is written again."""

    url: str
    size: int
    mark: str


class RemoteCheckpoint:
    """A directory of an object store, or one ``.safetensors`` object, as a checkpoint.

    Headers and the index are read at once, weights only when asked for, and then only their bytes.
    Objects can be shared by threads and pickled to worker processes. After every read the object is
    checked to be the one that was opened.

    Parameters
    ----------
    url
        ``protocol://bucket/directory`` of any protocol that fsspec knows. Credentials come from
        where the protocol's package looks for them.

    Raises
    ------
    CheckpointError
        No weights there, or any fault that `SafetensorsCheckpoint` refuses.
    SourceUnreachable
        The store cannot be reached, refuses access, or its package is not installed.
    """

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._label = without_password(self._url)
        self._files: dict[str, Found] = {}
        self._offsets: dict[str, int] = {}
        self._tensors: dict[str, TensorInfo] = {}
        self._digest: str | None = None
        if self._url.endswith(".safetensors"):
            self._open(self._url)
        else:
            self._open_directory()

    @property
    def label(self) -> str:
        """The address, without a password."""
        return self._label

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Shape and dtype by name: shards by name, tensors in the order of their bytes."""
        return MappingProxyType(self._tensors)

    @property
    def path(self) -> Path:
        """A local directory with the configuration and tokenizer files, without weights.

        They are small; they are fetched into the cache when this is first asked for.

        Raises
        ------
        SourceUnreachable
            They cannot be fetched.
        """
        folder = self._url.rpartition("/")[0] if self._url.endswith(".safetensors") else self._url
        return fetch_small(folder, is_template)

    @property
    def objects(self) -> list[dict[str, str | int]]:
        """The weight objects: ``url`` without a password, ``bytes``, and the store's own ``mark``."""
        files = {file.url: file for file in self._files.values()}
        return [
            {"url": without_password(file.url), "bytes": file.size, "mark": file.mark}
            for file in files.values()
        ]

    def read(self, name: str, rows: slice | None = None) -> Tensor:
        """Return a tensor, or the given rows along axis 0; only their bytes are transferred.

        Raises
        ------
        CheckpointError
            There is no such tensor, or the object changed since it was opened.
        SourceUnreachable
            The connection broke.
        ValueError
            Rows of a scalar, or with a step other than 1.
        """
        info = info_of(self._tensors, name, self._label)
        if rows is None:
            return self.read_range(name, 0, info.numel).reshape(info.shape)
        first, last = row_range(name, info.shape, rows)
        row = info.numel // info.shape[0] if info.shape[0] else 0
        flat = self.read_range(name, first * row, last * row)
        return flat.reshape((last - first, *info.shape[1:]))

    def read_range(self, name: str, start: int, stop: int) -> Tensor:
        """Return elements ``start`` to ``stop`` of the flattened tensor, 1-d.

        Raises
        ------
        CheckpointError, SourceUnreachable
            As `read`.
        """
        info = info_of(self._tensors, name, self._label)
        begin = self._offsets[name] + start * info.itemsize
        end = self._offsets[name] + stop * info.itemsize
        if end == begin:
            return torch.empty(0, dtype=info.dtype)
        data = read_object(self._files[name], begin, end, f"tensor {name!r}")
        # a copy in memory of its own: the element need not be aligned in the file
        return torch.frombuffer(bytearray(data), dtype=torch.uint8).view(info.dtype)

    def digest(self) -> str:
        """SHA-256 over names, shapes, dtypes and bytes; reads everything once per object."""
        if self._digest is None:
            self._digest = combine_digests(
                (name, info, self._tensor_digest(name, info)) for name, info in self._tensors.items()
            )
        return self._digest

    def _tensor_digest(self, name: str, info: TensorInfo) -> str:
        state, begin = hashlib.sha256(), self._offsets[name]
        for done in range(0, info.nbytes, _CHUNK):
            end = min(done + _CHUNK, info.nbytes)
            state.update(read_object(self._files[name], begin + done, begin + end, f"tensor {name!r}"))
        return state.hexdigest()

    def _open(self, url: str) -> dict[str, TensorInfo]:
        file = find_object(url)
        if file is None:
            raise CheckpointError(f"{url}: there is no such object", hint="Check the address")
        tensors, offsets, _ = parse_header(
            url, file.size, lambda start, stop: read_object(file, start, stop, "header")
        )
        self._tensors |= tensors
        self._offsets |= offsets
        self._files |= dict.fromkeys(tensors, file)
        return tensors

    def _open_directory(self) -> None:
        single, index = (find_object(f"{self._url}/{name}") for name in (WEIGHTS, INDEX))
        if single and index:
            raise CheckpointError(
                f"{self._label}: holds both {WEIGHTS} and {INDEX}, and programs differ in which they "
                "read",
                hint="Remove the one that is stale",
            )
        if single:
            self._open(single.url)
            return
        if index is None:
            raise CheckpointError(
                f"{self._label}: expected {WEIGHTS} or {INDEX}, found neither",
                hint="Check the address, or name one .safetensors object",
            )
        weight_map = parse_weight_map(index.url, _whole(index))
        for shard in sorted(set(weight_map.values())):
            check_relative(self._label, shard, named_by=index.url)
            compare(index.url, weight_map, shard, self._open(f"{self._url}/{shard}"))


def is_adapter(url: str) -> bool:
    """Tell whether a directory of an object store holds a LoRA adapter."""
    return not url.endswith(".safetensors") and find_object(f"{url.rstrip('/')}/{CONFIG}") is not None


def fetch_adapter(url: str) -> Path:
    """Copy an adapter, which is small, into the cache and return its directory there."""
    return fetch_small(url.rstrip("/"), lambda name: name in (CONFIG, ADAPTER_WEIGHTS), limit=None)


def fetch_small(url: str, wanted: Callable[[str], bool], *, limit: int | None = _MAX_SMALL) -> Path:
    """Copy objects of one directory into the cache, by name, and return the folder there.

    The folder belongs to exactly these objects: if one of them changes, there will be another.

    Raises
    ------
    CheckpointError
        A small file that is larger than ``limit`` bytes.
    SourceUnreachable
        The store cannot be reached.
    """
    filesystem, path = connect(url)
    entries = _call(url, lambda: filesystem.ls(path, detail=False))
    names = sorted(
        name for entry in entries if wanted(name := str(entry).rstrip("/").rpartition("/")[2])
    )
    files = {name: file for name in names if (file := find_object(f"{url}/{name}")) is not None}
    marks = [[file.url, file.size, file.mark] for file in files.values()]
    target = cache_root() / "stores" / canonical_digest(marks)
    if target.is_dir():
        return target
    with atomic_directory(target, overwrite=True) as folder:
        for name, file in files.items():
            if limit is not None and file.size > limit:
                raise CheckpointError(
                    f"{file.url}: expected a small file, found {file.size} bytes",
                    hint="Check what this file is; no configuration or tokenizer is that large",
                )
            (folder / name).write_bytes(_whole(file))
    return target


def find_object(url: str) -> Found | None:
    """Look an object up; None if there is none."""
    filesystem, path = connect(url)

    def look() -> tuple[dict[str, Any], str] | None:
        filesystem.invalidate_cache()
        try:
            found = filesystem.info(path)
            return None if found.get("type") == "directory" else (found, filesystem.ukey(path))
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return None

    found = _call(url, look)
    if found is None:
        return None
    size = found[0].get("size")
    if not isinstance(size, int):
        raise SourceUnreachable(
            f"{url}: the store does not say how large the object is", hint="Copy it to a disk first"
        )
    return Found(url, size, str(found[1]))


def _whole(file: Found) -> bytes:
    return read_object(file, 0, file.size, "file") if file.size else b""


def read_object(file: Found, start: int, stop: int, what: str) -> bytes:
    """Return the bytes of a range, and make sure that they are all there and of this object.

    Raises
    ------
    CheckpointError
        The object changed since it was found, or the store gives less.
    SourceUnreachable
        The connection broke.
    """
    filesystem, path = connect(file.url)
    if start == stop:
        return b""
    data: bytes = _call(file.url, lambda: filesystem.cat_file(path, start=start, end=stop))
    now = find_object(file.url)
    if now is None or now != file:
        raise CheckpointError(
            f"{file.url}: the object changed while it was in use ({what})",
            hint="Open the checkpoint again once nothing writes to it",
        )
    if len(data) != stop - start:
        raise CheckpointError(
            f"{file.url}: {what}: asked for {stop - start} bytes, got {len(data)}",
            hint="The store must be able to read a range of an object; else copy it to a disk first",
        )
    return data


def connect(url: str) -> tuple[Any, str]:
    """Return a file system of this thread, which fsspec keeps, and the path in it.

    Raises
    ------
    CheckpointError
        An unknown protocol.
    MissingExtra, SourceUnreachable
        A package is not installed, or does not take the address.
    """
    try:
        import fsspec  # type: ignore[import-untyped]
    except ImportError:
        raise MissingExtra("fsspec", "run", purpose=f"the address {without_password(url)}") from None
    protocol = url.partition("://")[0]
    known = {*fsspec.available_protocols(), *fsspec.registry}
    if protocol not in known:
        guess = nearest(protocol, known)
        raise CheckpointError(
            f"{url}: unknown protocol {protocol!r}",
            hint=f"Did you mean {guess}://?"
            if guess
            else "Give a path, a hub id or an address such as s3://bucket/directory",
        )
    try:
        filesystem, path = _call(url, lambda: fsspec.core.url_to_fs(url))
    except ImportError as error:
        raise SourceUnreachable(
            f"{url}: {protocol}:// needs a package that is not installed: {error}",
            hint=f"Install it with: pip install {_package(protocol)}",
        ) from error
    return filesystem, path


def _package(protocol: str) -> str:
    """Return the package of a protocol, as far as fsspec names it.

    >>> _package("s3"), _package("gs")
    ('s3fs', 'gcsfs')
    """
    from fsspec.registry import known_implementations  # type: ignore[import-untyped]

    entry = known_implementations.get(protocol, {})
    package = str(entry.get("class", "")).partition(".")[0]
    return package if package not in ("", "fsspec") else "what its message names"


def _call(url: str, action: Callable[[], T]) -> T:
    """Ask the store; whatever its package raises becomes one sentence."""
    try:
        return action()
    except ImportError:
        raise
    except FileNotFoundError as error:
        raise CheckpointError(f"{url}: there is no such object", hint="Check the address") from error
    except PermissionError as error:
        raise SourceUnreachable(
            f"{url}: the store refuses access: {first_line(error)}",
            hint="Log in as its package's manual says, or ask for the right to read",
        ) from error
    except Exception as error:  # packages of stores have exceptions of their own
        raise SourceUnreachable(
            f"{url}: the store cannot be read: {first_line(error)}",
            hint="Check the address, the credentials and the network, and try again",
        ) from error


def first_line(error: Exception) -> str:
    """Return the first line of what a package says, or the name of its exception."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".")
