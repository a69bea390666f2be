"""Models named by a path or by their id on the hub."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from taskloom.errors import CheckpointError, MissingExtra, SourceUnreachable

_SAFE = (
    "*.safetensors",
    "*.json",
    "*.txt",
    "*.model",
    "*.jinja",
    "*.tiktoken",
    "*.vocab",
    "*.bpe",
)
_PICKLES = ("*.bin", "*.pt", "*.pth")
_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_REVISION = re.compile(r"[\w.][\w./-]*")


def resolve_model(
    spec: str | os.PathLike[str], *, revision: str | None = None, allow_pickle: bool = False
) -> Path:
    """Return the local directory (or file) of a model, fetching it from the hub if need be.

    What exists locally is a path; everything else is a hub id, ``owner/name`` with or without
    ``@revision``. If the hub cannot be reached, a snapshot that was fetched before is used.

    Parameters
    ----------
    spec
        Path or hub id.
    revision
        Branch, tag or commit; not together with ``@revision``.
    allow_pickle
        Fetch pickled weights too; without it they are not even downloaded.

    Raises
    ------
    CheckpointError
        Neither an existing path nor something that could be a hub id, or two revisions.
    SourceUnreachable
        The hub cannot be reached or does not have the model, and it is not cached.
    MissingExtra
        huggingface_hub is not installed.
    """
    text = os.fspath(spec)
    path = Path(text).expanduser()
    if text and path.exists():
        return path
    name, _, tagged = text.partition("@")
    if tagged and revision is not None and tagged != revision:
        raise CheckpointError(
            f"{text}: two revisions are given, {tagged!r} and {revision!r}", hint="Give one of them"
        )
    wanted = tagged or revision
    if not _could_be_id(text, name, wanted):
        raise CheckpointError(
            f"{text}: there is no such file or directory, and it cannot be a hub id",
            hint="Check the path; a hub id looks like owner/name or owner/name@revision",
        )
    return _snapshot(name, wanted, _SAFE + _PICKLES if allow_pickle else _SAFE)


def _could_be_id(text: str, name: str, revision: str | None) -> bool:
    if text.endswith(("@", "/", ".safetensors", *(each[1:] for each in _PICKLES))):
        return False
    whole = _ID.fullmatch(name) is not None and ".." not in name and "--" not in name
    good = _REVISION.fullmatch(revision or "x") is not None and ".." not in (revision or "")
    return whole and good


def _snapshot(name: str, revision: str | None, patterns: tuple[str, ...]) -> Path:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ImportError:
        raise MissingExtra("huggingface_hub", "run", purpose=f"fetching {name}") from None
    options: dict[str, Any] = {"revision": revision, "allow_patterns": list(patterns)}
    try:
        return Path(snapshot_download(name, **options))
    except (HfHubHTTPError, OSError, LocalEntryNotFoundError) as error:
        # Connection errors of every http client it may use derive from OSError or are wrapped.
        reason = error
    except Exception as error:
        if not type(error).__module__.startswith(("httpx", "httpcore", "requests", "urllib3")):
            raise
        reason = error
    try:
        return Path(snapshot_download(name, local_files_only=True, **options))
    except (HfHubHTTPError, OSError, LocalEntryNotFoundError):
        raise _unreachable(name, revision, reason) from reason


def _unreachable(name: str, revision: str | None, reason: Exception) -> SourceUnreachable:
    at = f" at revision {revision!r}" if revision else ""
    lines = str(reason).strip().splitlines() or [type(reason).__name__]
    return SourceUnreachable(
        f"{name}{at} is not a local path, is not cached, and cannot be fetched from the hub: "
        f"{lines[0].rstrip('.')}",
        hint="Check the name and the network, or give a local directory",
    )
