"""Weights in safetensors files: one file, or shards with an index."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from taskloom.errors import CheckpointError
from taskloom.lazy import Tensor, torch
from taskloom.store.access import info_of, inside, row_range
from taskloom.store.cache import file_mark
from taskloom.store.checkpoint import TensorInfo
from taskloom.store.digest import cached_digest, combine_digests
from taskloom.store.header import Header, read_header, strict_json

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"

_CHUNK = 1 << 22


class SafetensorsCheckpoint:
    """A Hugging Face directory with safetensors weights, or a single ``.safetensors`` file.

    Headers are read and checked at once; weights only when asked for, and of a row slice only
    its bytes. Every read opens the file anew, so objects can be shared by threads and pickled to
    worker processes, and a file that changes under the reader is noticed.

    Parameters
    ----------
    path
        Directory with ``model.safetensors``, or with ``model.safetensors.index.json`` and its
        shards; or one file.

    Raises
    ------
    CheckpointError
        No weights there, a header that cannot be true (see `read_header`), an index that names
        files outside the directory, a missing shard, or an index and shards that disagree.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        headers = _open_all(self._path)
        self._headers: dict[str, Header] = {}
        tensors: dict[str, TensorInfo] = {}
        for header in headers:
            tensors |= header.tensors
            self._headers |= dict.fromkeys(header.tensors, header)
        self._tensors = tensors
        self._metadata = dict(headers[0].metadata) if len(headers) == 1 else {}

    @property
    def label(self) -> str:
        """The path as it was given."""
        return str(self._path)

    @property
    def path(self) -> Path:
        """The directory or file."""
        return self._path

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Shape and dtype by name: shards by file name, tensors in the order of their bytes."""
        return MappingProxyType(self._tensors)

    @property
    def metadata(self) -> Mapping[str, str]:
        """The strings stored beside the tensors of a single file; empty for shards."""
        return MappingProxyType(self._metadata)

    @property
    def files(self) -> tuple[Path, ...]:
        """The weight files, in order."""
        return tuple(dict.fromkeys(header.path for header in self._headers.values()))

    def read(self, name: str, rows: slice | None = None) -> Tensor:
        """Return a tensor of its own memory, or the given rows along axis 0.

        Raises
        ------
        CheckpointError
            There is no such tensor, or the file changed since it was opened.
        ValueError
            Rows of a scalar, or with a step other than 1.
        """
        info = info_of(self._tensors, name, self.label)
        header = self._headers[name]
        start, shape, nbytes = header.offsets[name], info.shape, info.nbytes
        if rows is not None:
            first, last = row_range(name, shape, rows)
            row = nbytes // shape[0] if shape[0] else 0
            start, shape = start + first * row, (last - first, *shape[1:])
            nbytes = (last - first) * row
        data = torch.empty(nbytes, dtype=torch.uint8)
        _fill(header, name, start, data.numpy().data)
        return data.view(info.dtype).reshape(shape)

    def read_range(self, name: str, start: int, stop: int) -> Tensor:
        """Return elements ``start`` to ``stop`` of the flattened tensor, 1-d.

        Raises
        ------
        CheckpointError
            As `read`.
        """
        info, header = info_of(self._tensors, name, self.label), self._headers[name]
        size = info.itemsize
        data = torch.empty((stop - start) * size, dtype=torch.uint8)
        _fill(header, name, header.offsets[name] + start * size, data.numpy().data)
        return data.view(info.dtype)

    def locate(self, name: str) -> tuple[Header, int]:
        """Return the file that holds a tensor, and the place of its first byte."""
        info_of(self._tensors, name, self.label)
        return self._headers[name], self._headers[name].offsets[name]

    def digest(self) -> str:
        """SHA-256 over names, shapes, dtypes and bytes; kept in the cache until a file changes."""
        return cached_digest("safetensors", self.files, self._digest)

    def _digest(self) -> str:
        return combine_digests(
            (name, info, self._tensor_digest(name, info)) for name, info in self._tensors.items()
        )

    def _tensor_digest(self, name: str, info: TensorInfo) -> str:
        header, state = self._headers[name], hashlib.sha256()
        buffer = memoryview(bytearray(min(_CHUNK, info.nbytes)))
        for done in range(0, info.nbytes, _CHUNK):
            piece = buffer[: min(_CHUNK, info.nbytes - done)]
            _fill(header, name, header.offsets[name] + done, piece)
            state.update(piece)
        return state.hexdigest()


def _fill(header: Header, name: str, start: int, into: memoryview) -> None:
    """Read bytes of the file into a buffer, or say why they are not there."""
    try:
        with header.path.open("rb", buffering=0) as stream:
            if tuple(file_mark(header.path)[:3]) != header.mark:
                raise CheckpointError(
                    f"{header.path}: the file changed while it was in use (tensor {name!r})",
                    hint="Open the checkpoint again once nothing writes to it",
                )
            stream.seek(start)
            done = 0
            while done < len(into):
                count = stream.readinto(into[done:])
                if not count:
                    raise CheckpointError(
                        f"{header.path}: tensor {name!r}: expected {len(into)} bytes, found {done}",
                        hint="The file was cut short; get it again from its source",
                    )
                done += count
    except OSError as error:
        raise CheckpointError(
            f"{header.path}: tensor {name!r} cannot be read: {error.strerror or error}",
            hint="Check that the file is still there",
        ) from error


def _open_all(path: Path) -> list[Header]:
    if not path.exists():
        raise CheckpointError(f"{path}: there is no such file or directory", hint="Check the path")
    if path.is_file():
        return [read_header(path)]
    single, index = path / WEIGHTS, path / INDEX
    if single.exists() and index.exists():
        raise CheckpointError(
            f"{path}: holds both {WEIGHTS} and {INDEX}, and programs differ in which they read",
            hint="Remove the one that is stale",
        )
    if index.exists():
        return _open_shards(path, index)
    if os.path.lexists(single):
        return [read_header(inside(path, WEIGHTS, named_by=str(path)))]
    raise CheckpointError(f"{path}: expected {WEIGHTS} or {INDEX}, found neither", hint=_way_out(path))


def _way_out(path: Path) -> str:
    names = sorted(entry.name for entry in path.iterdir())
    if "adapter_config.json" in names:
        return "This is an adapter; open it together with its base"
    pickles = [name for name in names if name.endswith((".bin", ".pt", ".pth"))]
    if pickles:
        return f"It holds the pickle {pickles[0]}; allow pickles if you trust where it comes from"
    others = [name for name in names if name.endswith(".safetensors")]
    if others:
        return f"Name the file itself, such as {path / others[0]}"
    return "Check the path"


def _open_shards(folder: Path, index: Path) -> list[Header]:
    weight_map = read_weight_map(folder, index)
    shards = {
        shard: inside(folder, shard, named_by=str(index)) for shard in sorted({*weight_map.values()})
    }
    headers = []
    for shard, file in shards.items():
        if not file.is_file():
            listed = next(name for name, where in weight_map.items() if where == shard)
            raise CheckpointError(
                f"{index}: the shard {shard!r} (tensor {listed!r} and others) is missing",
                hint="Download the checkpoint again, all of it",
            )
        headers.append(read_header(file))
    for (shard, _), header in zip(shards.items(), headers, strict=True):
        compare(index, weight_map, shard, header.tensors)
    return headers


def read_weight_map(folder: Path, index: Path) -> dict[str, str]:
    """Return tensor -> file of an index, checked to be strings.

    Raises
    ------
    CheckpointError
        The index cannot be read, is not JSON, or has no ``weight_map``.
    """
    inside(folder, index.name, named_by=str(folder))
    try:
        text = index.read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"{index}: cannot be read: {error.strerror or error}", hint="Check its permissions"
        ) from error
    return parse_weight_map(index, text)


def parse_weight_map(index: object, text: bytes) -> dict[str, str]:
    """Return tensor -> file of an index's text; ``index`` is how messages call it.

    Raises
    ------
    CheckpointError
        It is not JSON, or has no ``weight_map`` from strings to strings.
    """
    try:
        table = strict_json(text.decode("utf-8"))
    except ValueError as error:
        raise CheckpointError(
            f"{index}: expected JSON in UTF-8, but {error}", hint="Get the checkpoint again"
        ) from error
    found = table.get("weight_map") if isinstance(table, dict) else None
    if not isinstance(found, dict) or not found:
        raise CheckpointError(
            f"{index}: expected a weight_map from tensors to files", hint="Get the checkpoint again"
        )
    for name, shard in found.items():
        if not isinstance(shard, str):
            raise CheckpointError(
                f"{index}: tensor {name!r}: expected a file name, found {shard!r}",
                hint="Get the checkpoint again",
            )
    return found


def compare(
    index: object, weight_map: Mapping[str, str], shard: str, tensors: Mapping[str, TensorInfo]
) -> None:
    """Refuse a shard whose tensors are not those that the index lists for it.

    Raises
    ------
    CheckpointError
        With the first tensor that index and shard disagree about.
    """
    for name, where in weight_map.items():
        if where == shard and name not in tensors:
            raise CheckpointError(
                f"{index}: tensor {name!r}: expected in {shard!r}, found no such tensor there",
                hint="Index and shards are of different versions; get the checkpoint again",
            )
    for name in tensors:
        if weight_map.get(name) != shard:
            raise CheckpointError(
                f"{index}: tensor {name!r} is stored in {shard!r}, but the index says "
                f"{weight_map.get(name, 'nothing of it')!r}",
                hint="Index and shards are of different versions; get the checkpoint again",
            )
