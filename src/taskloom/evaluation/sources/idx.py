"""Rows of IDX files, the format of MNIST, in a hash-pinned package."""

from __future__ import annotations

from math import prod

import numpy as np
from numpy.typing import NDArray

from taskloom.errors import DataError
from taskloom.evaluation.formats import unpacked
from taskloom.evaluation.pictures import SIZE, Fit, labelled_pictures
from taskloom.evaluation.rows import Row, SourceContext
from taskloom.registry import register
from taskloom.store.packages import PackageRef, fetch_package, open_member

_UNSIGNED_BYTE = 8


@register("source")
def idx(
    context: SourceContext,
    /,
    *,
    package: PackageRef,
    images: dict[str, str],
    labels: dict[str, str],
    first: dict[str, int] | None = None,
    fit: Fit = "pad",
    size: int = SIZE,
) -> list[Row]:
    """Read pictures and labels of IDX files; columns ``image``, ``label`` (a number), ``split``.

    Parameters
    ----------
    package
        Registry, name, version and sha256 of the archive.
    images, labels
        For each split the path of its file in the archive, gzipped or not; pictures ``(N, H, W)``
        and labels ``(N,)`` of unsigned bytes.
    first
        For a split, how many entries to take from the front of its files; without it, all.
    fit, size
        See `taskloom.evaluation.pictures.grey_pictures`.

    Raises
    ------
    SourceUnreachable, IntegrityError
        See `taskloom.store.packages.fetch_package`.
    DataError
        A file is missing or no such IDX file, the splits or numbers of entries differ, or there are
        fewer than ``first``.
    """
    if images.keys() != labels.keys() or not set(first or {}) <= set(images):
        raise DataError(
            f"task {context.task!r}: expected the same splits for images and labels, found "
            f"{sorted(images)} and {sorted(labels)}, and 'first' of {sorted(first or {})}"
        )
    fetch_package(package, progress=context.progress)
    rows: list[Row] = []
    for split, member in images.items():
        pixels = read_idx(open_member(package, member), name=member, axes=3)
        numbers = read_idx(open_member(package, labels[split]), name=labels[split], axes=1)
        if len(pixels) != len(numbers):
            raise DataError(
                f"{member} has {len(pixels)} pictures, {labels[split]} {len(numbers)} labels"
            )
        most = (first or {}).get(split, len(pixels))
        if not 0 < most <= len(pixels):
            raise DataError(f"{member} has {len(pixels)} pictures, but 'first' asks for {most}")
        some = pixels[:most], numbers[:most].tolist()
        rows += labelled_pictures(*some, fit=fit, size=size, split=split)
    return rows


def read_idx(data: bytes, *, name: str, axes: int) -> NDArray[np.uint8]:
    """Return the array of an IDX file of unsigned bytes.

    The format: two zero bytes, the type (8: unsigned byte), the number of axes, then the length of
    each axis as a big-endian 32-bit number, then the entries, last axis fastest (LeCun, Cortes and
    Burges, The MNIST database).

    Raises
    ------
    DataError
        It is not, has another number of axes, or another length than it says.

    Examples
    --------
    >>> read_idx(bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 9]), name="x", axes=1).tolist()
    [7, 9]
    """
    data, _ = unpacked(data, name)
    if len(data) < 4 or data[:3] != bytes([0, 0, _UNSIGNED_BYTE]) or data[3] != axes:
        raise DataError(
            f"{name}: expected an IDX file of unsigned bytes with {axes} axes, "
            f"found the bytes {data[:4].hex() or 'none'}"
        )
    header = 4 + 4 * axes
    shape = tuple(int.from_bytes(data[4 + 4 * i : 8 + 4 * i], "big") for i in range(axes))
    if len(data) < header or len(data) - header != prod(shape):
        raise DataError(
            f"{name}: expected {prod(shape)} bytes for its shape {shape}, found {len(data) - header}",
            hint="The file was cut short; get the package again",
        )
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)
