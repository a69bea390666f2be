"""One door to every kind of weights."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from taskloom.errors import CheckpointError
from taskloom.lazy import Module, Tensor
from taskloom.store import pickled, safetensors_dir
from taskloom.store.adapter import CONFIG, AdapterCheckpoint
from taskloom.store.checkpoint import Checkpoint
from taskloom.store.hub import resolve_model
from taskloom.store.memory import MemoryCheckpoint
from taskloom.store.remote import (
    RemoteCheckpoint,
    fetch_adapter,
    is_adapter,
    is_url,
    local_path,
)
from taskloom.store.safetensors_dir import SafetensorsCheckpoint

#: What can be opened: weights in memory, a path, an address of an object store, or a hub id.
Source = Checkpoint | Mapping[str, Tensor] | Module | str | os.PathLike[str]


def open_checkpoint(
    source: Source,
    *,
    base: Checkpoint | None = None,
    revision: str | None = None,
    allow_pickle: bool = False,
) -> Checkpoint:
    """Open weights, whatever holds them.

    Parameters
    ----------
    source
        A checkpoint (returned as it is), a state dict, a module, a directory, a file, an address
        of an object store such as ``s3://bucket/directory``, or a hub id with or without
        ``@revision``.
    base
        The weights an adapter was trained on; adapters need it, everything else ignores it.
    revision
        Branch, tag or commit of a hub id.
    allow_pickle
        Also open pickled weights, with ``weights_only``.

    Raises
    ------
    CheckpointError
        Missing, malformed or pickled weights, or an adapter without its base.
    SourceUnreachable
        A hub id that is not cached and cannot be fetched, or a store that cannot be read.
    """
    if isinstance(source, Module | Mapping):
        return MemoryCheckpoint(source)
    if not isinstance(source, str | os.PathLike):
        if isinstance(source, Checkpoint):
            return source
        raise CheckpointError(
            f"expected weights, a path or a hub id, found {type(source).__name__}",
            hint="Pass a state dict, a module, a directory or a hub id",
        )
    text = os.fspath(source)
    if is_url(text):
        if revision is not None:
            raise CheckpointError(
                f"{text}: revision {revision!r} was given, but an address has none",
                hint="Put the version into the address, or leave the revision out",
            )
        local = local_path(text)
        if local is None:
            return (
                _open_adapter(fetch_adapter(text), base) if is_adapter(text) else RemoteCheckpoint(text)
            )
        text = str(local)
    path = resolve_model(text, revision=revision, allow_pickle=allow_pickle)
    if (path / CONFIG).is_file():
        return _open_adapter(path, base)
    if _is_pickle(path):
        return _open_pickle(path, allow_pickle)
    return SafetensorsCheckpoint(path)


def _open_adapter(path: Path, base: Checkpoint | None) -> AdapterCheckpoint:
    if base is None:
        raise CheckpointError(
            f"{path}: this is an adapter, which is nothing without the weights it was trained on",
            hint="Give the base it belongs to",
        )
    return AdapterCheckpoint(path, base)


def _is_pickle(path: Path) -> bool:
    if path.is_file():
        return path.suffix in pickled.SUFFIXES
    if any((path / name).exists() for name in (safetensors_dir.WEIGHTS, safetensors_dir.INDEX)):
        return False
    return any((path / name).exists() for name in (pickled.WEIGHTS, pickled.INDEX))


def _open_pickle(path: Path, allow_pickle: bool) -> MemoryCheckpoint:
    if not allow_pickle:
        raise CheckpointError(
            f"{path}: the weights are pickled, and unpickling can run code",
            hint="Convert them to safetensors, or allow pickles if you trust where they come from "
            "(--allow-pickle)",
        )
    return pickled.open_pickled(path)


def source_name(source: object) -> str | None:
    """Return a short name for a path or hub id, None for weights in memory.

    >>> source_name("experts/trec6/"), source_name("org/model@v1"), source_name({})
    ('trec6', 'model', None)
    >>> source_name("org/model@refs/pr/1")
    'model'
    """
    if isinstance(source, str | os.PathLike):
        text = os.fspath(source)
        # a revision may hold slashes, as refs/pr/1 does
        name = text if Path(text).exists() else re.sub(r"^([\w.-]+(/[\w.-]+)?)@.*", r"\1", text)
        return re.sub(r"@.*|\.(safetensors|bin|pt|pth)$", "", Path(name).name) or None
    return None
