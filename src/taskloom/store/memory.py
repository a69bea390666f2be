"""Weights that are already in memory: a state dict or an nn.Module."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from taskloom.errors import CheckpointError
from taskloom.lazy import Module, Tensor, torch
from taskloom.store.access import info_of, row_range
from taskloom.store.checkpoint import TensorInfo
from taskloom.store.digest import combine_digests, tensor_digest


class MemoryCheckpoint:
    """A state dict or module as a checkpoint; tensors stay the objects they are.

    Nothing is copied or detached, so what is computed from the tensors can be differentiated with
    respect to them. Tensors that share memory, shape and strides (tied weights) are listed once,
    under the first of their names; `aliases` has the others.

    Parameters
    ----------
    source
        Names -> tensors, or a module (parameters and persistent buffers).
    label
        How messages call it.

    Raises
    ------
    CheckpointError
        A value that is not a dense tensor with data.

    >>> shared = torch.ones(2, 3)
    >>> checkpoint = MemoryCheckpoint({"embedding": shared, "lm_head": shared})
    >>> list(checkpoint.tensors), dict(checkpoint.aliases)
    (['embedding'], {'lm_head': 'embedding'})
    """

    def __init__(self, source: Mapping[str, Tensor] | Module, label: str = "<memory>") -> None:
        named = source.state_dict(keep_vars=True) if isinstance(source, Module) else source
        self._label = label
        self._values: dict[str, Tensor] = {}
        self._aliases: dict[str, str] = {}
        first: dict[tuple[object, ...], str] = {}
        for name, value in named.items():
            _check(label, name, value)
            owner = first.setdefault(_memory_of(name, value), name)
            if owner == name:
                self._values[name] = value
            else:
                self._aliases[name] = owner
        self._tensors = {
            name: TensorInfo(tuple(value.shape), value.dtype) for name, value in self._values.items()
        }

    @property
    def label(self) -> str:
        """How messages call it."""
        return self._label

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Shape and dtype by name, in the order of the state dict."""
        return MappingProxyType(self._tensors)

    @property
    def aliases(self) -> Mapping[str, str]:
        """Further names of tied tensors -> the name they are listed under."""
        return MappingProxyType(self._aliases)

    def read(self, name: str, rows: slice | None = None) -> Tensor:
        """Return the tensor itself, or a view of the given rows along axis 0.

        Raises
        ------
        CheckpointError
            There is no such tensor.
        ValueError
            Rows of a scalar, or with a step other than 1.
        """
        info = info_of(self._tensors, name, self._label)
        value = self._values[name]
        if rows is None:
            return value
        first, last = row_range(name, info.shape, rows)
        return value[first:last]

    def read_range(self, name: str, start: int, stop: int) -> Tensor:
        """Return elements ``start`` to ``stop`` of the flattened tensor, 1-d."""
        info_of(self._tensors, name, self._label)
        return self._values[name].reshape(-1)[start:stop]

    def digest(self) -> str:
        """SHA-256 over names, shapes, dtypes and bytes, as a file with these tensors has."""
        return combine_digests(
            (name, info, tensor_digest(self._values[name])) for name, info in self._tensors.items()
        )


def _check(label: str, name: object, value: object) -> None:
    if not isinstance(name, str):
        raise CheckpointError(
            f"{label}: expected strings as names, found {name!r}", hint="Pass a state dict"
        )
    if not isinstance(value, Tensor):
        raise CheckpointError(
            f"{label}: {name!r}: expected a tensor, found {type(value).__name__}",
            hint="Pass a state dict: names -> tensors",
        )
    if value.layout != torch.strided or value.is_quantized:
        raise CheckpointError(
            f"{label}: tensor {name!r}: expected a dense tensor, found a sparse or quantised one",
            hint="Convert it with .to_dense() or .dequantize() first",
        )
    if value.is_meta:
        raise CheckpointError(
            f"{label}: tensor {name!r} is on the meta device and has no data",
            hint="Load the model's weights first",
        )


def _memory_of(name: str, value: Tensor) -> tuple[object, ...]:
    """Two names with equal keys are one tensor."""
    if value.numel() == 0:
        return (name,)
    return (value.device, value.data_ptr(), value.dtype, tuple(value.shape), value.stride())
