"""Decoded or rendered rows that are kept in the cache, because making them takes long."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskloom.evaluation.rows import Row
from taskloom.store.atomic import atomic_file
from taskloom.store.cache import cache_root, canonical_digest, file_digest
from taskloom.store.package_ref import PackageRef
from taskloom.store.packages import fetch_package

#: part of every key; raised whenever the same options lead to other pictures
CODE_VERSION = 1
Columns = Mapping[str, NDArray[Any]]


def kept_rows(key: Mapping[str, Any], make: Callable[[], Columns]) -> list[Row]:
    """Return the rows of columns that were made before under an equal key, or make and keep them.

    Parameters
    ----------
    key
        Plain JSON data that decides the content: digests of the files, options, versions of what
        decodes them.
    make
        Gives columns of equal length, none of objects; ``(N, ...)`` arrays give one array a row,
        text columns give str.

    Returns
    -------
    One row for each entry of the columns. A damaged file in the cache is made anew.

    Raises
    ------
    OutputError
        The cache cannot be written.
    """
    folder = cache_root() / "pictures"
    path = folder / f"{canonical_digest({'code': CODE_VERSION, **key})[:32]}.npz"
    columns = _load(path)
    if columns is None:
        columns = dict(make())
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as temp, temp.open("wb") as file:
            np.savez_compressed(file, **columns)  # type: ignore[arg-type]
    lists = {
        name: list(column) if column.dtype.kind != "U" else column.tolist()
        for name, column in columns.items()
    }
    return [dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True)]


def archive_digest(ref: PackageRef) -> str:
    """Return the SHA-256 (hex) of a package's archive, which has been fetched."""
    return ref.sha256 or file_digest(fetch_package(ref))


def _load(path: Path) -> dict[str, NDArray[Any]] | None:
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
