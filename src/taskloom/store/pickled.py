"""Weights in pickles, opened only by those who ask for it, and then without running them."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from taskloom.errors import CheckpointError
from taskloom.lazy import Tensor, torch
from taskloom.store.access import inside
from taskloom.store.memory import MemoryCheckpoint
from taskloom.store.safetensors_dir import read_weight_map

WEIGHTS = "pytorch_model.bin"
INDEX = "pytorch_model.bin.index.json"
SUFFIXES = (".bin", ".pt", ".pth")


def open_pickled(path: str | os.PathLike[str]) -> MemoryCheckpoint:
    """Open a pickled state dict: a ``.bin``, ``.pt`` or ``.pth`` file, or a directory of them.

    Only tensors and plain containers are unpickled (``torch.load(weights_only=True)``); the
    weights stay on disk until they are used where the file's format allows it.

    Raises
    ------
    CheckpointError
        Nothing there, a damaged file, a pickle that wants to run code, or no state dict.
    """
    source = Path(path)
    values: dict[str, Tensor] = {}
    for file in _files(source):
        values |= _load(file)
    return MemoryCheckpoint(values, label=str(source))


def _files(source: Path) -> list[Path]:
    if source.is_file():
        return [source]
    index = source / INDEX
    if index.exists():
        names = sorted(set(read_weight_map(source, index).values()))
        files = [inside(source, name, named_by=str(index)) for name in names]
    else:
        files = [inside(source, WEIGHTS, named_by=str(source))]
    for file in files:
        if not file.is_file():
            raise CheckpointError(
                f"{file}: there is no such file", hint="Download the checkpoint again, all of it"
            )
    return files


def _load(file: Path) -> Mapping[str, Tensor]:
    try:
        found: Any = torch.load(
            file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file)
        )
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{file}: expected a pickle of tensors alone, found one that needs more or is damaged",
            hint="Convert it to safetensors where it came from",
        ) from error
    except Exception as error:  # a damaged pickle can fail in any way
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"{file}: expected a pickled state dict, but {reason}",
            hint="Get the file again from its source",
        ) from error
    if not isinstance(found, Mapping):
        raise CheckpointError(
            f"{file}: expected a state dict, found {type(found).__name__}",
            hint="Save model.state_dict() instead",
        )
    return found
