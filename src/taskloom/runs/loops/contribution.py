"""A contribution: weights of one round with a manifest, and the rule by which it is taken or not.

Accepted is what belongs to the open round, was tuned from its base, has the base's tensors and the bytes
its manifest names, all finite. Late (of a round that is closed) and unfinished (without a manifest)
contributions are skipped; everything else is refused. Each is told by name, with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from taskloom.errors import CheckpointError, DataError, NumericalError, SourceUnreachable, TaskloomError
from taskloom.lazy import torch
from taskloom.runs.loops.exchange import Exchange
from taskloom.store.atomic import write_json
from taskloom.store.checkpoint import Checkpoint, TensorInfo
from taskloom.store.digest import combine_digests, tensor_digest
from taskloom.store.header import strict_json
from taskloom.store.objects import StoreLost
from taskloom.store.safetensors_dir import WEIGHTS, SafetensorsCheckpoint
from taskloom.store.scratch import scratch
from taskloom.store.writer import write_safetensors

MANIFEST = "contribution.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
#: a manifest is a few lines and one per tensor
_MAX_MANIFEST = 20_000_000
#: room for the header of the weights beyond the base's bytes
_SPARE = 100_000_000

Decision = Literal["accepted", "late", "unfinished", "refused"]


class Manifest(BaseModel):
    """Contents of ``contribution.json``.

    Attributes
    ----------
    round
        For which it was made.
    base
        Digest of the weights it was tuned from.
    contributor
        Name; that of its folder.
    examples
        How many it was tuned on.
    tensors
        SHA-256 of the bytes of every tensor, by name.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    format: Literal[1] = 1
    round: int = Field(ge=0)
    base: str = Field(pattern=r"^[0-9a-f]{64}$")
    contributor: str
    examples: int = Field(ge=1)
    tensors: dict[str, str]


@dataclass(frozen=True)
class Verdict:
    """What becomes of a contribution.

    Attributes
    ----------
    contributor
        Name of its folder.
    decision, reason
        What, and why not if not accepted.
    examples, digest
        Of an accepted one: from its manifest, and of its weights.
    local
        Copy of the weights of an accepted one.
    """

    contributor: str
    decision: Decision
    reason: str = ""
    examples: int = 0
    digest: str = ""
    local: Path | None = None

    def plain(self) -> dict[str, Any]:
        """Return what is told of it."""
        found: dict[str, Any] = {"contributor": self.contributor, "decision": self.decision}
        if self.decision == "accepted":
            return found | {"examples": self.examples, "digest": self.digest}
        return found | {"reason": self.reason}


def is_name(contributor: str) -> bool:
    """Tell whether a name can be that of a folder.

    >>> is_name("lab-3"), is_name(".."), is_name("a b")
    (True, False, False)
    """
    return _NAME.fullmatch(contributor) is not None


def check_name(contributor: str) -> str:
    """Return a name that can be that of a folder.

    Raises
    ------
    DataError
        It cannot.

    >>> check_name("lab-3")
    'lab-3'
    """
    if not is_name(contributor):
        raise DataError(
            f"contributor {contributor!r}: expected letters, digits, '_', '-' and '.', up to 100",
            hint="Choose another name",
        )
    return contributor


def folder_of(number: int, contributor: str = "") -> str:
    """Return where contributions to a round are.

    >>> folder_of(3, "lab"), folder_of(3)
    ('contributions/0003/lab', 'contributions/0003')
    """
    return f"contributions/{number:04d}/{contributor}".rstrip("/")


def write_contribution(
    exchange: Exchange,
    number: int,
    base: str,
    contributor: str,
    weights: Checkpoint,
    *,
    examples: int,
    replace: bool = False,
) -> Manifest:
    """Write weights and manifest to the exchange, whole or not at all.

    Heads and whatever else lies beside the weights stay where they are.

    Raises
    ------
    NumericalError
        NaN or infinity in the weights.
    OutputError
        This contributor has contributed to the round, or the exchange cannot be written.
    DataError
        A name that cannot be that of a folder.
    """
    check_name(contributor)
    digests: dict[str, str] = {}
    for name in weights.tensors:
        tensor = weights.read(name)
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise NumericalError(
                f"{weights.label}: tensor {name!r} has NaN or infinity", hint="Tune again"
            )
        digests[name] = tensor_digest(tensor)
    manifest = Manifest(
        round=number, base=base, contributor=contributor, examples=examples, tensors=digests
    )
    with scratch() as folder:
        write_safetensors(
            folder / WEIGHTS,
            weights.tensors,
            ((name, weights.read(name)) for name in weights.tensors),
            {"format": "pt"},
        )
        write_json(folder / MANIFEST, manifest.model_dump(mode="json"))
        exchange.put(folder_of(number, contributor), folder, MANIFEST, replace=replace)
    return manifest


def judge(
    exchange: Exchange,
    contributor: str,
    *,
    number: int,
    base: str,
    infos: Mapping[str, TensorInfo],
    into: Path,
) -> Verdict:
    """Decide about one contribution to the open round; nothing that lies there makes this raise.

    Parameters
    ----------
    contributor
        Name of its folder.
    number, base, infos
        The open round, the digest of its base and the base's tensors.
    into
        Folder that the weights are copied to. The copy is judged, so that nothing changes afterwards.
    """
    where = folder_of(number, contributor)
    if not is_name(contributor):
        return Verdict(contributor, "refused", "its name cannot be that of a contributor")
    try:
        manifest = _manifest(exchange, where)
        if manifest is None:
            return Verdict(contributor, "unfinished", "it has no manifest yet")
        if manifest.round < number:
            return Verdict(contributor, "late", f"it was made for round {manifest.round}")
        _check_manifest(manifest, contributor, number, base, infos)
        local = into / contributor
        _fetch(exchange, f"{where}/{WEIGHTS}", local, infos)
        digest = _check_weights(local, manifest, infos)
    except (StoreLost, SourceUnreachable) as error:
        return Verdict(contributor, "unfinished", str(error))  # perhaps it can be read later
    except TaskloomError as error:
        return Verdict(contributor, "refused", str(error))
    except (OSError, ValueError, RecursionError) as error:
        return Verdict(contributor, "refused", f"it cannot be read: {error}")
    return Verdict(contributor, "accepted", "", manifest.examples, digest, local)


def _manifest(exchange: Exchange, where: str) -> Manifest | None:
    name = f"{where}/{MANIFEST}"
    size = exchange.size(name)
    if size is None:
        return None
    if size > _MAX_MANIFEST:
        raise CheckpointError(f"its manifest has {size} bytes, where a small file is expected")
    text = (exchange.read(name) or b"").decode("utf-8")
    try:
        return Manifest.model_validate(strict_json(text))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise CheckpointError(f"its manifest is malformed: {place}: {first['msg'].lower()}") from None


def _check_manifest(
    manifest: Manifest, contributor: str, number: int, base: str, infos: Mapping[str, TensorInfo]
) -> None:
    if manifest.contributor != contributor:
        raise CheckpointError(f"its manifest names the contributor {manifest.contributor!r}")
    if manifest.round != number:
        raise CheckpointError(f"it is for round {manifest.round}, and the open round is {number}")
    if manifest.base != base:
        raise CheckpointError(f"it was tuned from another base ({manifest.base[:12]}, not {base[:12]})")
    odd = sorted(set(manifest.tensors) ^ set(infos))
    if odd:
        owner = "the base" if odd[0] in infos else "the manifest"
        raise CheckpointError(f"only {owner} names the tensor {odd[0]!r}")


def _fetch(exchange: Exchange, name: str, local: Path, infos: Mapping[str, TensorInfo]) -> None:
    size = exchange.size(name)
    wanted = sum(info.nbytes for info in infos.values())
    if size is None or not wanted <= size <= wanted + _SPARE:
        raise CheckpointError(
            f"its weights have {'no' if size is None else size} bytes, where the base has {wanted}"
        )
    local.mkdir(parents=True, exist_ok=True)
    exchange.get(name, local / WEIGHTS)


def _check_weights(local: Path, manifest: Manifest, infos: Mapping[str, TensorInfo]) -> str:
    weights = SafetensorsCheckpoint(local)
    parts = []
    for name, info in infos.items():
        found = weights.tensors.get(name)
        if found is None or (found.shape, found.kind) != (info.shape, info.kind):
            told = "none" if found is None else f"{list(found.shape)} {found.kind}"
            raise CheckpointError(
                f"tensor {name!r}: expected {list(info.shape)} {info.kind}, found {told}"
            )
        tensor = weights.read(name)
        digest = tensor_digest(tensor)
        if digest != manifest.tensors[name]:
            raise CheckpointError(f"the bytes of tensor {name!r} are not those its manifest names")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"tensor {name!r} has NaN or infinity")
        parts.append((name, info, digest))
    extra = sorted(set(weights.tensors) - set(infos))
    if extra:
        raise CheckpointError(f"it has the tensor {extra[0]!r}, which the base has not")
    return combine_digests(parts)


def told(verdicts: Mapping[str, Verdict]) -> str:
    """Return everything that was not accepted, by name and reason, as one line."""
    rest = [each for each in verdicts.values() if each.decision != "accepted"]
    return "; ".join(f"{each.contributor} {each.decision}: {each.reason}" for each in rest)
