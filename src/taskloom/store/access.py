"""Small rules that every reader shares: known names, whole rows, files that stay in their folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath

from taskloom.errors import CheckpointError, nearest
from taskloom.store.checkpoint import TensorInfo


def info_of(tensors: Mapping[str, TensorInfo], name: str, label: str) -> TensorInfo:
    """Return the tensor's info, or raise `CheckpointError` with the nearest name there is."""
    try:
        return tensors[name]
    except KeyError:
        guess = nearest(name, tensors)
        raise CheckpointError(
            f"{label}: there is no tensor {name!r}",
            hint=f"The nearest name is {guess!r}" if guess else "List the names with .tensors",
        ) from None


def row_range(name: str, shape: tuple[int, ...], rows: slice) -> tuple[int, int]:
    """Return first and one-past-last row of ``rows`` along axis 0.

    Raises
    ------
    ValueError
        The tensor is a scalar, or the slice has a step other than 1.

    >>> row_range("w", (5, 2), slice(-2, None))
    (3, 5)
    """
    if not shape:
        raise ValueError(f"tensor {name!r} is a scalar and has no rows")
    start, stop, step = rows.indices(shape[0])
    if step != 1:
        raise ValueError(f"rows of {name!r} are read with step 1, not {step}")
    return start, max(start, stop)


def check_relative(folder: object, relative: str, *, named_by: str) -> None:
    """Refuse a path that is absolute or climbs out of ``folder``, whatever holds the folder.

    Raises
    ------
    CheckpointError
        With the path and who names it.

    >>> check_relative("s3://bucket/model", "../other", named_by="its index")
    Traceback (most recent call last):
    ...
    taskloom.errors.CheckpointError: its index: expected a file of s3://bucket/model, found the path
    '../other' that leaves it. Do not trust this checkpoint; get it again from its source
    """
    parts = PurePosixPath(relative).parts
    windows = PureWindowsPath(relative)
    plain = parts and "\0" not in relative and "\\" not in relative
    if not plain or ".." in parts or relative.startswith("/") or windows.drive:
        raise CheckpointError(
            f"{named_by}: expected a file of {folder}, found the path {relative!r} that leaves it",
            hint="Do not trust this checkpoint; get it again from its source",
        )


def inside(folder: Path, relative: str, *, named_by: str) -> Path:
    """Return the file ``relative`` of ``folder``, or refuse a path or a link that leaves it.

    The hub's cache keeps a snapshot's files as links into a ``blobs`` folder beside
    ``snapshots``, or one shared by all models; those links, and no others, may leave it.

    Parameters
    ----------
    folder
        The checkpoint's directory.
    relative
        A path as written in an untrusted file.
    named_by
        Who names it, for the message.

    Raises
    ------
    CheckpointError
        The path is absolute, climbs out, or is a link to the outside.
    """
    check_relative(folder, relative, named_by=named_by)
    try:
        found = (folder / relative).resolve()
        found.is_file()  # so that a name too long for the disk is told here
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(
            f"{named_by}: the path {relative!r:.200} cannot be followed: {reason}",
            hint="Get the checkpoint again from its source",
        ) from error
    if not any(found.is_relative_to(root) for root in _allowed_roots(folder)):
        raise CheckpointError(
            f"{named_by}: expected a file of {folder}, found {relative!r}, a link to {found}",
            hint="Copy the file into the directory, or name the directory that holds it",
        )
    return folder / relative


def _allowed_roots(folder: Path) -> list[Path]:
    real = folder.resolve()
    roots = [real]
    for above in real.parents:
        if above.name == "snapshots" and above.parent.name.startswith("models--"):
            roots += [above.parent / "blobs", above.parent.parent / "blobs"]
    return roots
