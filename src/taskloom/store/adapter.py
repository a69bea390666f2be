"""A LoRA adapter on its base, seen as a full checkpoint and made tensor by tensor."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from taskloom.errors import CheckpointError
from taskloom.lazy import Tensor, torch
from taskloom.store.access import info_of, inside, row_range
from taskloom.store.adapter_config import CONFIG, LoraConfig, read_config
from taskloom.store.adapter_keys import Parts, find_base_names, rename, sort_keys, wrapping
from taskloom.store.checkpoint import Checkpoint, TensorInfo
from taskloom.store.digest import cached_digest, combine_digests, tensor_digest
from taskloom.store.safetensors_dir import SafetensorsCheckpoint

__all__ = ["CONFIG", "WEIGHTS", "AdapterCheckpoint"]

WEIGHTS = "adapter_model.safetensors"

#: rows multiplied at a time. Blocks start at multiples of this, so that a row comes out the same
#: whichever rows are asked for with it.
ROWS = 256


@dataclass(frozen=True)
class _Delta:
    """Where a base tensor's low-rank change comes from: keys of the two factors."""

    a: str
    b: str
    swapped: bool  # the change is (B A)^T
    scaling: float


class AdapterCheckpoint:
    """Base + scaling * B A: a peft LoRA directory applied to its base, lazily.

    Names, shapes and dtypes are the base's. Low-rank changes are added in float32 and the sum is
    cast to the base's dtype; modules saved whole (``modules_to_save``, biases) replace the base's.
    Rank and alpha patterns, rsLoRA scaling, ``fan_in_fan_out`` and embeddings are understood;
    everything that is not plain LoRA is refused by name.

    Parameters
    ----------
    path
        Directory with ``adapter_config.json`` and ``adapter_model.safetensors``.
    base
        The weights it was trained on.

    Raises
    ------
    CheckpointError
        Missing or malformed files, an unsupported feature, or an adapter of another base.
    """

    def __init__(self, path: str | os.PathLike[str], base: Checkpoint) -> None:
        self._path = Path(path)
        self._base = base
        self._config = read_config(self._path)
        weights = inside(self._path, WEIGHTS, named_by=str(self._path))
        if not weights.is_file():
            raise CheckpointError(
                f"{self._path}: expected {WEIGHTS} beside {CONFIG}, found none",
                hint="Save the adapter with safe_serialization=True",
            )
        self._weights = SafetensorsCheckpoint(weights)
        parts = sort_keys(self._weights.tensors, str(weights))
        renaming = find_base_names(parts, base.tensors)
        if renaming is None:
            raise self._another_base(parts)
        self._deltas = dict(
            self._delta(renaming[module], module, keys, embedding)
            for module, keys, embedding in parts.modules
        )
        self._embeddings = frozenset(f"{renaming[module]}.weight" for module in parts.embedding)
        self._wrapping = wrapping(renaming)
        self._saved = dict(
            self._replacement(rename(name, renaming), key) for name, key in parts.saved.items()
        )

    @property
    def label(self) -> str:
        """The adapter's path and the base's label."""
        return f"{self._path} on {self._base.label}"

    @property
    def path(self) -> Path:
        """The adapter's directory."""
        return self._path

    @property
    def files(self) -> tuple[Path, ...]:
        """Weights and configuration of the adapter, then the base's files; none if those are none."""
        below: tuple[Path, ...] = getattr(self._base, "files", ())
        return (*self._weights.files, self._config.path, *below) if below else ()

    @property
    def base(self) -> Checkpoint:
        """The weights below the adapter."""
        return self._base

    @property
    def config(self) -> LoraConfig:
        """Ranks and scalings."""
        return self._config

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """The base's tensors."""
        return self._base.tensors

    @property
    def changed(self) -> tuple[str, ...]:
        """Names of the tensors that can differ from the base's, in the base's order."""
        touched = self._deltas.keys() | self._saved.keys()
        return tuple(name for name in self._base.tensors if name in touched)

    @property
    def whole(self) -> tuple[str, ...]:
        """Names of the tensors that are stored whole, in the base's order."""
        return tuple(name for name in self._base.tensors if name in self._saved)

    @property
    def low_rank(self) -> tuple[str, ...]:
        """Names of the tensors that have factors, in the base's order."""
        return tuple(name for name in self._base.tensors if name in self._deltas)

    @property
    def embeddings(self) -> frozenset[str]:
        """Names of the changed tensors that peft looks up rather than multiplies with."""
        return self._embeddings

    @property
    def wrapping(self) -> tuple[str, str]:
        """(parts before the adapter's names, parts before the base's) where the two differ.

        ``("bert.", "")``: the adapter says ``bert.encoder...`` where the base says ``encoder...``.
        """
        return self._wrapping

    def rank(self, name: str) -> int:
        """Return the rank of a tensor's low-rank change; 0 where `factors` gives None."""
        delta = self._deltas.get(name)
        if delta is None or (name in self._saved and not self._saved_is_base(name)):
            return 0
        return self._weights.tensors[delta.a].shape[0]

    def factors(self, name: str) -> tuple[Tensor, Tensor, float] | None:
        """Return (B, A, scaling) with tensor = base + scaling * B A, or None.

        B is (rows, rank) and A (rank, columns), in the orientation of the base's tensor and in the
        dtype they are stored in. None: the tensor is the base's own, or it is stored whole.

        Raises
        ------
        CheckpointError
            There is no such tensor.
        """
        info_of(self.tensors, name, self.label)
        delta = self._deltas.get(name)
        if delta is None or (name in self._saved and not self._saved_is_base(name)):
            return None
        a, b = self._weights.read(delta.a), self._weights.read(delta.b)
        left, right = (a.T, b.T) if delta.swapped else (b, a)
        return left, right, delta.scaling

    def read(self, name: str, rows: slice | None = None) -> Tensor:
        """Return the adapted tensor, or the given rows along axis 0, in the base's dtype.

        Raises
        ------
        CheckpointError
            There is no such tensor.
        ValueError
            Rows of a scalar, or with a step other than 1.
        """
        info = info_of(self.tensors, name, self.label)
        source, key = (self._weights, self._saved[name]) if name in self._saved else (self._base, name)
        below = source.read(key, rows)
        if name not in self._deltas:
            return below if below.dtype == info.dtype else below.to(info.dtype)
        whole = slice(0, info.shape[0]) if rows is None else rows
        first, last = row_range(name, info.shape, whole)
        change = self._change(self._deltas[name], first, last, info.shape[0])
        return below.to(torch.float32).add(change.to(below.device)).to(info.dtype)

    def digest(self) -> str:
        """SHA-256 of the adapted weights: that of a checkpoint which holds them."""
        if not isinstance(self._base, SafetensorsCheckpoint):
            return self._digest()
        files = [*self._weights.files, self._config.path, *self._base.files]
        return cached_digest("adapter", files, self._digest)

    def _digest(self) -> str:
        return combine_digests(
            (name, info, tensor_digest(self.read(name))) for name, info in self.tensors.items()
        )

    def _change(self, delta: _Delta, first: int, last: int, size: int) -> Tensor:
        """Rows [first, last) of scaling * B A in float32, multiplied in fixed blocks of rows."""
        a = self._weights.read(delta.a).to(torch.float32)
        b = self._weights.read(delta.b).to(torch.float32)
        left, right = (a.T.contiguous(), b.T.contiguous()) if delta.swapped else (b, a)
        start = first - first % ROWS
        blocks = [left[at : min(at + ROWS, size)] @ right for at in range(start, last, ROWS)] or [
            left[:0] @ right
        ]
        return torch.cat(blocks)[first - start : last - start].mul_(delta.scaling)

    def _saved_is_base(self, name: str) -> bool:
        saved, below = self._weights.read(self._saved[name]), self._base.read(name)
        return torch.equal(saved.to(below.dtype), below.detach().cpu())

    def _delta(
        self, name: str, module: str, keys: Mapping[str, str], embedding: bool
    ) -> tuple[str, _Delta]:
        weight = f"{name}.weight"
        a, b = (self._weights.tensors[keys[side]] for side in "AB")
        target = self._base.tensors[weight]
        if len(a.shape) != 2 or len(b.shape) != 2 or len(target.shape) != 2:
            raise CheckpointError(
                f"{self._path}: module {module!r}: LoRA on convolutions is not supported "
                f"(A {list(a.shape)}, B {list(b.shape)})",
                hint="Merge it into its base with peft and use the result",
            )
        if not (a.dtype.is_floating_point and b.dtype.is_floating_point):
            raise CheckpointError(
                f"{self._path}: module {module!r}: expected floating-point factors, "
                f"found {a.dtype} and {b.dtype}",
                hint="Save the adapter unquantised",
            )
        if not target.dtype.is_floating_point:
            raise CheckpointError(
                f"{self._path}: tensor {weight!r} of the base {self._base.label}: expected "
                f"floating-point weights, found {target.dtype}",
                hint="Use the unquantised base",
            )
        rank = self._config.rank_of(module)
        if a.shape[0] != rank or b.shape[1] != rank:
            raise CheckpointError(
                f"{self._path}: module {module!r}: expected rank {rank} as {CONFIG} says, "
                f"found A {list(a.shape)} and B {list(b.shape)}",
                hint="Configuration and weights are of different adapters; get both again",
            )
        swapped = embedding or self._config.transposed
        rows, columns = (a.shape[1], b.shape[0]) if swapped else (b.shape[0], a.shape[1])
        if target.shape != (rows, columns):
            way_out = "Open it with the base it was trained on"
            if target.shape == (columns, rows):
                way_out += f", and check fan_in_fan_out in {CONFIG}"
            raise CheckpointError(
                f"{self._path} is an adapter of another base: module {module!r} expects a weight "
                f"of shape {[rows, columns]}, found {list(target.shape)} in {self._base.label}",
                hint=way_out,
            )
        scaling = self._config.scaling_of(module)
        return weight, _Delta(keys["A"], keys["B"], swapped, scaling)

    def _replacement(self, name: str, key: str) -> tuple[str, str]:
        found, target = self._weights.tensors[key], self._base.tensors.get(name)
        if target is None:
            raise CheckpointError(
                f"{self._path}: the adapter stores {name!r} whole (modules_to_save or bias), "
                f"expected it in the base, found no such tensor in {self._base.label}",
                hint="Open it with a base that has this module, such as its head",
            )
        if found.shape != target.shape:
            raise CheckpointError(
                f"{self._path} is an adapter of another base: tensor {name!r} has shape "
                f"{list(found.shape)}, found {list(target.shape)} in {self._base.label}",
                hint="Open it with the base it was trained on",
            )
        if found.dtype.is_floating_point != target.dtype.is_floating_point:
            raise CheckpointError(
                f"{self._path}: tensor {name!r}: expected {target.dtype} as in "
                f"{self._base.label}, found {found.dtype}",
                hint="Open it with the base it was trained on",
            )
        return name, key

    def _another_base(self, parts: Parts) -> CheckpointError:
        modules = [module for module, _, _ in parts.modules] or list(parts.saved)
        missing = next((m for m in modules if f"{m}.weight" not in self._base.tensors), modules[0])
        return CheckpointError(
            f"{self._path} is an adapter of another base: it changes the module {missing!r}, "
            f"which {self._base.label} does not have",
            hint="Open it with the base it was trained on",
        )
