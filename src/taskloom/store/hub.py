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
#: the card, for the licence that it names
_CARD = ("README.md",)
_PICKLES = ("*.bin", "*.pt", "*.pth")
#: further copies of the weights, and what is left over from training
_DUPLICATES = (
    "consolidated*.safetensors",
    "original/*",
    "onnx/*",
    "openvino/*",
    "coreml/*",
    "runs/*",
    "checkpoint-*/*",
    "global_step*/*",
)
_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_REVISION = re.compile(r"[\w.][\w./-]*")
_SNAPSHOT = re.compile(r"models--(.+)/snapshots/([0-9a-f]{40})(?:/.*)?")


def resolve_model(
    spec: str | os.PathLike[str], *, revision: str | None = None, allow_pickle: bool = False
) -> Path:
    """Return the local directory (or file) of a model, fetching it from the hub if need be.

    What exists locally is a path; everything else is a hub id, ``owner/name`` with or without
    ``@revision``. A branch or tag is looked up once and everything is fetched from the commit it
    stands for, which is a part of the returned path (see `hub_name`); only safetensors,
    configuration and tokenizer files are. If the hub cannot be reached, a snapshot that was fetched
    before is used; one named by its commit needs no network at all once it is whole.

    Parameters
    ----------
    spec
        Path or hub id.
    revision
        Branch, tag or commit; not together with ``@revision``.
    allow_pickle
        Fetch pickled weights of a model that has no others; without it none are downloaded.

    Raises
    ------
    CheckpointError
        Neither an existing path nor something that could be a hub id, or two revisions.
    SourceUnreachable
        The hub cannot be reached, does not have this model or revision or does not show it to
        this user, or the connection broke, and it is not cached whole.
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
    found = _snapshot(name, wanted, _SAFE + _CARD)
    if allow_pickle and not any(found.glob("*.safetensors")):
        found = _snapshot(name, wanted, _SAFE + _CARD + _PICKLES)
    return found


def hub_name(path: str | os.PathLike[str]) -> str | None:
    """Return ``owner/name@commit`` of a snapshot in the hub's cache, None for any other path.

    >>> hub_name("/c/models--org--small/snapshots/" + "0a" * 20)
    'org/small@0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a'
    >>> hub_name("models/small") is None
    True
    """
    found = re.search(_SNAPSHOT.pattern + "$", Path(os.fspath(path)).as_posix())
    return f"{found[1].replace('--', '/')}@{found[2]}" if found else None


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
    options: dict[str, Any] = {
        "revision": revision,
        "allow_patterns": list(patterns),
        "ignore_patterns": list(_DUPLICATES),
    }
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
    from huggingface_hub import errors

    at = f" at revision {revision!r}" if revision else ""
    if isinstance(reason, errors.RevisionNotFoundError):
        return SourceUnreachable(
            f"{name} has no revision {revision!r} on the hub",
            hint="Name a branch, a tag or a whole commit hash that the model's page lists",
        )
    status = getattr(getattr(reason, "response", None), "status_code", None)
    if isinstance(reason, errors.GatedRepoError):
        return SourceUnreachable(
            f"{name}{at} is gated: the hub shows it to users who have accepted its terms",
            hint="Accept them on the model's page, then log in with 'hf auth login' or set HF_TOKEN",
        )
    if isinstance(reason, errors.RepositoryNotFoundError) or status in {401, 403}:
        return SourceUnreachable(
            f"{name}{at}: the hub has no such model, or it is private and shown only to its owners "
            f"(status {status})",
            hint="Check the name; if it is private, log in with 'hf auth login' or set HF_TOKEN",
        )
    lines = str(reason).strip().splitlines() or [type(reason).__name__]
    return SourceUnreachable(
        f"{name}{at} is not a local path, is not cached whole, and cannot be fetched from the hub: "
        f"{lines[0].rstrip('.:')}",
        hint="Check the name and the network and try again (what has arrived is kept), or give a "
        "local directory",
    )
