"""Models that a configuration names, opened: weights, configuration, and where they lie."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from taskloom.errors import CheckpointError, PlanError
from taskloom.lazy import Tensor, torch
from taskloom.runs.mergekit.anatomy import Anatomy, dissect
from taskloom.runs.mergekit.schema import ModelName
from taskloom.store.checkpoint import Checkpoint, TensorInfo


@dataclass(frozen=True, eq=False)
class Model:
    """One model of a merge.

    Attributes
    ----------
    name
        As the file names it.
    checkpoint
        Its weights.
    config
        What its ``config.json`` says; empty if it has none.
    path
        Its directory, which configuration and tokenizer are copied from.
    source
        Absolute path or address of its weights.
    adapter
        The same of the adapter on them.
    """

    name: ModelName
    checkpoint: Checkpoint
    config: Mapping[str, Any] = field(repr=False)
    path: Path
    source: str = ""
    adapter: str | None = None

    @cached_property
    def anatomy(self) -> Anatomy:
        """Its tensors by place."""
        return dissect(tuple(self.checkpoint.tensors), self.config)

    @property
    def tied(self) -> bool | None:
        """Whether output and input embeddings are one; None if the configuration does not say."""
        for table in (self.config, self.config.get("text_config") or {}):
            if "tie_word_embeddings" in table:
                return bool(table["tie_word_embeddings"])
        return None

    @property
    def vocabulary_size(self) -> int | None:
        """How many rows its embedding has, as its configuration says."""
        for table in (self.config, self.config.get("text_config") or {}):
            if isinstance(table.get("vocab_size"), int):
                return int(table["vocab_size"])
        return None


def open_model(
    name: ModelName, *, allow_pickle: bool = False, at: Mapping[str, str | None] | None = None
) -> Model:
    """Open a model, from a path, an object store or the hub; an adapter is put on it lazily.

    Parameters
    ----------
    name
        As the file names it.
    allow_pickle
        Permit pickled weights, read with ``weights_only``.
    at
        ``path`` and ``adapter`` to open instead of what the name says.

    Raises
    ------
    CheckpointError, SourceUnreachable
        See `taskloom.store.open.open_checkpoint`.
    PlanError
        ``override_architecture``, which only chooses among mergekit's templates.
    """
    from taskloom.store.open import open_checkpoint

    if name.override_architecture:
        raise PlanError(
            f"{name}: override_architecture is not supported: layers are read off the tensors' names",
            hint="Remove it",
        )
    source, revision = (name.path, name.revision) if at is None else (str(at["path"]), None)
    source = _found(source, revision, allow_pickle)
    checkpoint = open_checkpoint(source, allow_pickle=allow_pickle)
    path = getattr(checkpoint, "path", None) or Path(source)
    adapter = name.lora if at is None else at["adapter"]
    if adapter is not None:
        adapter = _found(adapter, None if at else name.lora_revision, allow_pickle)
        checkpoint = open_checkpoint(adapter, base=checkpoint)
    return Model(name, checkpoint, read_json(path / "config.json"), path, source, adapter)


def _found(source: str, revision: str | None, allow_pickle: bool) -> str:
    """Return the absolute path of a model, fetched if need be; addresses stay as they are."""
    from taskloom.store.hub import resolve_model
    from taskloom.store.remote import is_url

    if is_url(source):
        return source
    return str(resolve_model(source, revision=revision, allow_pickle=allow_pickle).absolute())


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object; empty if there is no such file.

    Raises
    ------
    CheckpointError
        The file is not a JSON object.
    """
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path}: is not JSON: {error}", hint="Get the model again") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: expected a JSON object", hint="Get the model again")
    return found


class PlannedCheckpoint:
    """A model that does not exist yet: names and shapes of an intermediate merge."""

    def __init__(self, label: str, tensors: Mapping[str, TensorInfo]) -> None:
        self._label, self._tensors = label, tensors

    @property
    def label(self) -> str:
        """Name of the intermediate merge."""
        return self._label

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """What it will hold."""
        return self._tensors

    def read(self, name: str, rows: slice | None = None) -> Tensor:
        """Refuse: it has to be made first."""
        raise CheckpointError(f"{self._label}: {name!r} is not made yet", hint="Make it first")

    def digest(self) -> str:
        """Refuse: it has to be made first."""
        raise CheckpointError(f"{self._label}: is not made yet", hint="Make it first")


class Widened:
    """A checkpoint whose floating-point tensors are read as float64, for ``dtype: float64``."""

    def __init__(self, inner: Checkpoint) -> None:
        self._inner = inner
        self._tensors = {
            name: TensorInfo(info.shape, "float64") if info.is_float else info
            for name, info in inner.tensors.items()
        }

    @property
    def label(self) -> str:
        """The inner checkpoint's."""
        return self._inner.label

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """The inner checkpoint's, as float64."""
        return self._tensors

    @property
    def files(self) -> tuple[Path, ...]:
        """The inner checkpoint's."""
        return tuple(getattr(self._inner, "files", ()))

    def read(self, name: str, rows: slice | None = None) -> Tensor:
        """Read from the inner checkpoint and widen."""
        tensor = self._inner.read(name, rows)
        return tensor.to(torch.float64) if tensor.is_floating_point() else tensor

    def digest(self) -> str:
        """Return the inner checkpoint's."""
        return self._inner.digest()


def promoted(kinds: Iterable[str]) -> str:
    """Return the dtype that holds numbers of all the given ones.

    >>> promoted(["bfloat16", "float32"]), promoted(["float16", "bfloat16"]), promoted(["float16"])
    ('float32', 'float32', 'float16')
    """
    found = set(kinds)
    if len(found) == 1:
        return found.pop()
    return "float64" if "float64" in found else "float32"
