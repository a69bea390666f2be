"""Tied tensors that one model stores once and another stores twice.

A model whose output layer shares its embedding is saved with one of the two. A copy of its state
dict made tensor by tensor, or a fine-tune that was saved untied, holds both. Equal, they are the tied
tensor; different, they are two, and the base has only one to compare them with.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from taskloom.errors import CheckpointError
from taskloom.lazy import Tensor
from taskloom.store.access import info_of
from taskloom.store.checkpoint import Checkpoint, TensorInfo
from taskloom.store.header import strict_json

_HEADS = re.compile(r"(.*\.)?(lm_head|embed_out|output|proj_out|decoder)\.weight")
_EMBEDDINGS = re.compile(
    r"(.*\.)?(embed_tokens|tok_embeddings|wte|word_embeddings|embed_in|shared)\.weight"
)
_ROWS = 4096


class TiedCheckpoint:
    """A checkpoint without the names that repeat another of its tensors.

    Parameters
    ----------
    inner
        The checkpoint that stores them twice.
    aliases
        Repeated name -> the name it repeats.
    """

    def __init__(self, inner: Checkpoint, aliases: Mapping[str, str]) -> None:
        self._inner = inner
        self._aliases = dict(aliases)
        self._tensors = {name: info for name, info in inner.tensors.items() if name not in self._aliases}

    @property
    def label(self) -> str:
        """The inner checkpoint's."""
        return self._inner.label

    @property
    def path(self) -> Path | None:
        """The inner checkpoint's directory, if it has one."""
        found: Path | None = getattr(self._inner, "path", None)
        return found

    @property
    def files(self) -> tuple[Path, ...]:
        """The weight files of the inner checkpoint, if it has any."""
        return tuple(getattr(self._inner, "files", ()))

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """The inner checkpoint's, without repetitions."""
        return MappingProxyType(self._tensors)

    @property
    def aliases(self) -> Mapping[str, str]:
        """Repeated names -> the names they repeat."""
        return MappingProxyType(self._aliases)

    def read(self, name: str, rows: slice | None = None) -> Tensor:
        """Return the tensor, or the given rows along axis 0.

        Raises
        ------
        CheckpointError
            There is no such tensor.
        """
        info_of(self._tensors, name, self.label)
        return self._inner.read(name, rows)

    def digest(self) -> str:
        """Return the inner checkpoint's digest."""
        return self._inner.digest()


def as_tied(expert: Checkpoint, base: Checkpoint, *, who: str, whose: str) -> Checkpoint:
    """Return the expert with the tensors that the base ties listed once.

    Weights are read only if the expert stores a tensor that the base ties.

    Parameters
    ----------
    expert, base
        Checkpoints to compare.
    who, whose
        How messages call them.

    Raises
    ------
    CheckpointError
        Such a tensor differs from the one it is tied to.
    """
    repeated = {
        name: owner
        for name in expert.tensors
        if name not in base.tensors and (owner := tied_to(base, name, expert.tensors))
    }
    for name, owner in repeated.items():
        if not _equal(expert, name, owner):
            raise CheckpointError(
                f"{who}: tensor {name!r} is tied to {owner!r} in {whose}, which stores the two once, "
                f"but here it is a tensor of its own with other values",
                hint=f"Save the base untied (with {name!r} as a copy of {owner!r} and "
                "tie_word_embeddings false), so that the two are merged separately, or tie the expert",
            )
    return TiedCheckpoint(expert, repeated) if repeated else expert


def tied_to(base: Checkpoint, name: str, others: Mapping[str, TensorInfo]) -> str | None:
    """Return the base's tensor that ``name``, which it does not list, is tied to.

    Weights in memory know it. Of a directory, an output layer is taken to be tied to the one
    embedding of its shape, unless ``config.json`` says that they are not tied.

    Parameters
    ----------
    base
        The checkpoint that does not list ``name``.
    name
        A tensor that another checkpoint lists.
    others
        What that checkpoint lists.
    """
    known: Mapping[str, str] = getattr(base, "aliases", {})
    if name in known:
        return known[name] if known[name] in others else None
    if _config(base).get("tie_word_embeddings") is False:
        return None
    owner = owner_of(name, others[name], base.tensors)
    return owner if owner in others else None


def owner_of(name: str, info: TensorInfo, tensors: Mapping[str, TensorInfo]) -> str | None:
    """Return the embedding that an output layer would be tied to: the only one of its shape.

    >>> info = TensorInfo((5, 2), "float32")
    >>> owner_of("lm_head.weight", info, {"model.embed_tokens.weight": info})
    'model.embed_tokens.weight'
    """
    if not _HEADS.fullmatch(name):
        return None
    owners = [n for n, each in tensors.items() if _EMBEDDINGS.fullmatch(n) and each.shape == info.shape]
    return owners[0] if len(owners) == 1 else None


def _config(checkpoint: Checkpoint) -> Mapping[str, Any]:
    folder = getattr(checkpoint, "path", None)
    if folder is None:
        return {}
    try:
        found = strict_json((Path(folder) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _equal(checkpoint: Checkpoint, one: str, other: str) -> bool:
    """Compare bytes, a few thousand rows at a time."""
    first, second = checkpoint.tensors[one], checkpoint.tensors[other]
    if first != second:
        return False
    if not first.shape:
        return bool((checkpoint.read(one) == checkpoint.read(other)).all())
    return all(
        bool((checkpoint.read(one, rows) == checkpoint.read(other, rows)).all())
        for start in range(0, first.shape[0], _ROWS)
        for rows in [slice(start, start + _ROWS)]
    )
