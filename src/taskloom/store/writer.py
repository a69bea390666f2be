"""Writing weights: safetensors files, and directories that ``from_pretrained`` loads."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from taskloom.errors import OutputError
from taskloom.lazy import Tensor
from taskloom.store.atomic import atomic_directory, atomic_file, write_json
from taskloom.store.checkpoint import TensorInfo
from taskloom.store.digest import tensor_bytes
from taskloom.store.header import NAMES
from taskloom.store.safetensors_dir import INDEX, WEIGHTS
from taskloom.store.template import copy_template

#: what transformers asks for
METADATA = {"format": "pt"}


class SafetensorsWriter:
    """A safetensors file being written: all bytes reserved first, tensors in any order.

    Offsets follow the order of ``infos`` within each element size, widest first, so that every
    tensor is aligned to its own element. Use it as a context manager; leaving the block without
    an error checks that nothing is missing.

    Parameters
    ----------
    path
        The file; replaced if it exists. See `write_safetensors` for an atomic write.
    infos
        Shape and dtype of everything that will be written.
    metadata
        Strings stored in the header.
    resume
        Go on with a file of the same layout that is there; what was written to it stays.

    Raises
    ------
    OutputError
        A dtype that safetensors cannot store, or a name it reserves.
    OSError
        The disk is full; `atomic_file` and `atomic_directory` turn this into an `OutputError`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        infos: Mapping[str, TensorInfo],
        metadata: Mapping[str, str],
        *,
        resume: bool = False,
    ) -> None:
        self._path = Path(path)
        self._infos = dict(infos)
        header, self._offsets, size = _layout(self._path, self._infos, metadata)
        self._missing = dict.fromkeys(self._infos)
        going_on = resume and self._path.exists()
        self._file = self._path.open("r+b" if going_on else "wb", buffering=0)
        try:
            _reserve(self._file.fileno(), size)
            self._put(0, memoryview(header))
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> SafetensorsWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        if kind is None and self._missing:
            name = next(iter(self._missing))
            raise OutputError(
                f"{self._path}: {len(self._missing)} tensors were announced and never written, "
                f"the first of them {name!r}",
                hint="Write every tensor of infos",
            )

    def write(self, name: str, tensor: Tensor) -> None:
        """Put a whole tensor where the header says it is.

        Raises
        ------
        OutputError
            A name that was not announced or is written twice, or another shape or dtype.
        OSError
            The disk is full.
        """
        info = self._infos.get(name)
        if info is None or name not in self._missing:
            state = "was not announced" if info is None else "is written twice"
            raise OutputError(
                f"{self._path}: tensor {name!r} {state}", hint="Write each tensor of infos once"
            )
        found = TensorInfo(tuple(tensor.shape), tensor.dtype)
        if found != info:
            raise OutputError(
                f"{self._path}: tensor {name!r}: expected {info.dtype} {list(info.shape)}, "
                f"found {found.dtype} {list(found.shape)}",
                hint="Cast the tensor, or announce what it is",
            )
        self._put(self._offsets[name], tensor_bytes(tensor))
        del self._missing[name]

    def write_slice(self, name: str, offset: int, data: memoryview) -> None:
        """Put bytes of a tensor, from ``offset`` bytes into it; any thread, in any order.

        What is written this way is not watched for completeness; say `finished` when it is done.

        Raises
        ------
        OSError
            The disk is full.
        """
        self._put(self._offsets[name] + offset, data)

    def finished(self, name: str) -> None:
        """Take note that all slices of a tensor are written."""
        self._missing.pop(name, None)

    def close(self) -> None:
        """Close the file without asking what is missing; closing twice does nothing."""
        self._file.close()

    def sync(self) -> None:
        """Wait until everything is on disk."""
        os.fsync(self._file.fileno())

    def _put(self, offset: int, data: memoryview) -> None:
        descriptor, done = self._file.fileno(), 0
        while done < len(data):
            done += os.pwrite(descriptor, data[done:], offset + done)


def write_safetensors(
    path: str | os.PathLike[str],
    infos: Mapping[str, TensorInfo],
    tensors: Iterable[tuple[str, Tensor]],
    metadata: Mapping[str, str],
) -> None:
    """Write a safetensors file as the tensors come, whole or not at all.

    Parameters
    ----------
    path
        The file; what was there survives until the new one is whole.
    infos
        Shape and dtype of every tensor.
    tensors
        Every tensor of ``infos`` once, in any order; only one is held at a time.
    metadata
        Strings stored in the header; ``{"format": "pt"}`` is what transformers asks for.

    Raises
    ------
    OutputError
        A tensor that is missing, unannounced, given twice or of another shape or dtype; a disk
        that is full; a target that cannot be written.
    """
    with atomic_file(path) as temp, SafetensorsWriter(temp, infos, metadata) as writer:
        for name, tensor in tensors:
            writer.write(name, tensor)


def write_model(
    target: str | os.PathLike[str],
    *,
    infos: Mapping[str, TensorInfo],
    tensors: Iterable[tuple[str, Tensor]],
    template: str | os.PathLike[str] | None,
    overwrite: bool = False,
    extra: Callable[[Path], None] | None = None,
    max_shard_bytes: int = 5_000_000_000,
) -> Path:
    """Write a directory that ``AutoModel.from_pretrained`` loads, whole or not at all.

    Parameters
    ----------
    target
        The directory to make.
    infos
        Shape and dtype of every tensor, in the order in which shards are filled.
    tensors
        Every tensor of ``infos`` once, in any order; only one is held at a time.
    template
        Directory whose configuration, tokenizer and processor files are copied (see
        `copy_template`); None for weights alone.
    overwrite
        Replace an existing target; it survives until the new one is whole.
    extra
        Called with the folder before it is put in place, to add files of one's own.
    max_shard_bytes
        Above this many bytes of tensors the weights are split into shards with an index. A tensor
        larger than that has a shard of its own.

    Returns
    -------
    Path
        The target.

    Raises
    ------
    OutputError
        The target exists or cannot be written, the disk is full, or the tensors are not the
        announced ones. Nothing is left behind.
    """
    shards = plan_shards(infos, max_shard_bytes)
    with atomic_directory(target, overwrite=overwrite) as folder:
        _write_shards(folder, infos, shards, tensors)
        if template is not None:
            copy_template(Path(template), folder, infos)
        if extra is not None:
            extra(folder)
    return Path(target)


def plan_shards(infos: Mapping[str, TensorInfo], max_shard_bytes: int) -> dict[str, list[str]]:
    """Return file name -> tensors, filling one shard after the other in the order of ``infos``.

    >>> import torch
    >>> infos = {name: TensorInfo((4,), torch.float32) for name in "abc"}
    >>> plan_shards(infos, 100)
    {'model.safetensors': ['a', 'b', 'c']}
    >>> list(plan_shards(infos, 32).values())
    [['a', 'b'], ['c']]
    """
    if max_shard_bytes < 1:
        raise OutputError(
            f"a shard takes at least 1 byte, found max_shard_bytes {max_shard_bytes}",
            hint="Give a positive number of bytes",
        )
    groups: list[list[str]] = [[]]
    held = 0
    for name, info in infos.items():
        if groups[-1] and held + info.nbytes > max_shard_bytes:
            groups.append([])
            held = 0
        groups[-1].append(name)
        held += info.nbytes
    if len(groups) == 1:
        return {WEIGHTS: groups[0]}
    return {
        f"model-{number:05d}-of-{len(groups):05d}.safetensors": group
        for number, group in enumerate(groups, start=1)
    }


def shard_header(infos: Mapping[str, TensorInfo]) -> tuple[bytes, int]:
    """Return the header, with its length and padding, of the file that a shard becomes, and its size."""
    header, _, size = _layout(Path("a shard"), infos, METADATA)
    return header, size


def _write_shards(
    folder: Path,
    infos: Mapping[str, TensorInfo],
    shards: Mapping[str, Sequence[str]],
    tensors: Iterable[tuple[str, Tensor]],
) -> None:
    shard_of = {name: shard for shard, names in shards.items() for name in names}
    with ExitStack() as stack:
        writers = {
            shard: stack.enter_context(
                SafetensorsWriter(folder / shard, {name: infos[name] for name in names}, METADATA)
            )
            for shard, names in shards.items()
        }
        for name, tensor in tensors:
            if name not in shard_of:
                raise OutputError(
                    f"{folder}: tensor {name!r} was not announced",
                    hint="Write each tensor of infos once",
                )
            writers[shard_of[name]].write(name, tensor)
    if len(shards) > 1:
        total = sum(info.nbytes for info in infos.values())
        table = {"metadata": {"total_size": total}, "weight_map": shard_of}
        write_json(folder / INDEX, table)


def _layout(
    path: Path, infos: Mapping[str, TensorInfo], metadata: Mapping[str, str]
) -> tuple[bytes, dict[str, int], int]:
    """Return the header with its length, where each tensor starts in the file, and its size."""
    table: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    ends: dict[str, int] = {}
    end = 0
    for name, info in sorted(infos.items(), key=lambda item: -item[1].itemsize):
        if name == "__metadata__" or info.kind not in NAMES:
            raise OutputError(
                f"{path}: tensor {name!r} of {info.dtype} cannot be stored in safetensors",
                hint="Rename it or cast it to another dtype",
            )
        table[name] = {
            "dtype": NAMES[info.kind],
            "shape": list(info.shape),
            "data_offsets": [end, end + info.nbytes],
        }
        ends[name] = end
        end += info.nbytes
    text = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)
    header = len(text).to_bytes(8, "little") + text
    return header, {name: len(header) + start for name, start in ends.items()}, len(header) + end


def _reserve(descriptor: int, size: int) -> None:
    """Take the room on disk now, so that a full disk is noticed before any work is done."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    else:
        os.truncate(descriptor, size)
