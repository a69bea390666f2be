"""Picture files in folders of hash-pinned packages."""

from __future__ import annotations

import re
from fnmatch import fnmatch

import numpy as np

from taskloom.errors import DataError, PlanError
from taskloom.evaluation.kept import Columns, archive_digest, kept_rows
from taskloom.evaluation.pictures import SIZE, decode_picture, pillow
from taskloom.evaluation.rows import Row, SourceContext
from taskloom.progress import Progress
from taskloom.registry import register
from taskloom.store.archives import Archive, open_archive
from taskloom.store.packages import PackageRef, fetch_package


@register("source")
def pictures(
    context: SourceContext,
    /,
    *,
    packages: dict[str, PackageRef],
    pattern: str,
    without: list[str] | None = None,
    size: int = SIZE,
) -> list[Row]:
    """Read picture files of packages; columns ``image``, ``package``, ``path`` and pattern's groups.

    Parameters
    ----------
    packages
        A name for each package, and its registry, name, version and sha256.
    pattern
        Regular expression that a path in an archive must match from its beginning; its named groups
        become columns. Files that do not match are not read, nor are links, which repeat a file.
    without
        Globs of paths that match but are not read, such as damaged or enormous files.
    size
        See `taskloom.evaluation.pictures.decode_picture`.

    Raises
    ------
    SourceUnreachable, IntegrityError
        See `taskloom.store.packages.fetch_package`.
    DataError
        A package has no matching file, a file is no picture, or ``without`` names none.
    PlanError
        The pattern is no regular expression, or has no named group.
    MissingExtra
        Pillow is not installed.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise PlanError(
            f"task {context.task!r}: {pattern!r} is not a regular expression ({error})"
        ) from None
    if not compiled.groupindex:
        raise PlanError(f"task {context.task!r}: {pattern!r} has no named group (?P<column>...)")
    for ref in packages.values():
        fetch_package(ref, progress=context.progress)
    key = {
        "source": "pictures",
        "packages": {name: archive_digest(ref) for name, ref in packages.items()},
        "pattern": pattern,
        "without": sorted(without or []),
        "size": size,
        "pillow": pillow("reading pictures").__version__,
    }
    wanted = _Wanted(compiled, frozenset(without or []), size)
    return kept_rows(key, lambda: wanted.columns(packages, context.progress))


class _Wanted:
    """Which files to read, and how."""

    def __init__(self, pattern: re.Pattern[str], without: frozenset[str], size: int) -> None:
        self._pattern = pattern
        self._without = without
        self._size = size

    def columns(self, packages: dict[str, PackageRef], progress: Progress) -> Columns:
        """Read the files, package by package, in stored order."""
        images: list[np.ndarray] = []
        words: dict[str, list[str]] = {"package": [], "path": []}
        words |= {group: [] for group in self._pattern.groupindex}
        left = set(self._without)
        for title, ref in packages.items():
            with open_archive(fetch_package(ref)) as archive:
                chosen = self._chosen(archive)
                out = {name: [g for g in self._without if fnmatch(name, g)] for name in chosen}
                left.difference_update(*out.values())
                read = [name for name in chosen if not out[name]]
                if not read:
                    raise DataError(f"{ref} holds no file that matches {self._pattern.pattern!r}")
                for done, name in enumerate(read, start=1):
                    with archive.open(name) as file:
                        images.append(decode_picture(file.read(), name=name, size=self._size))
                    found = {"package": title, "path": name, **chosen[name].groupdict("")}
                    for column, value in found.items():
                        words[column].append(value)
                    progress(f"read pictures of {ref.name}", done, len(read))
        if left:
            raise DataError(f"'without' names {min(left)!r}, which no matching file is called")
        return {"image": np.stack(images), **{name: np.array(each) for name, each in words.items()}}

    def _chosen(self, archive: Archive) -> dict[str, re.Match[str]]:
        found: dict[str, re.Match[str]] = {}
        links = archive.links()
        for name in archive.names():
            match = self._pattern.match(name)
            if match and name not in links:
                found[name] = match
        return found
