"""A linear map from the base's features to those of a tuned model: a small stand-in for it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from taskloom.errors import CheckpointError, DataError
from taskloom.store.statistic import Statistic, open_statistic

#: what a stored map calls itself
KIND = "space_map"


@dataclass(frozen=True, eq=False)
class SpaceMap:
    """``x -> weight @ x + bias``.

    Attributes
    ----------
    weight
        ``(E, D)`` float32.
    bias
        ``(E,)`` float32.
    table
        What it was made of; strings.

    Raises
    ------
    DataError
        Shapes that do not fit each other.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    table: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        weight = np.ascontiguousarray(self.weight, dtype=np.float32)
        bias = np.ascontiguousarray(self.bias, dtype=np.float32)
        if weight.ndim != 2 or bias.shape != (len(weight),):
            raise DataError(
                f"space map: expected weight (E, D) and bias (E,), found {weight.shape} and {bias.shape}"
            )
        object.__setattr__(self, "weight", weight)
        object.__setattr__(self, "bias", bias)

    @property
    def nbytes(self) -> int:
        """Bytes of the numbers."""
        return self.weight.nbytes + self.bias.nbytes

    def apply(self, features: ArrayLike) -> NDArray[np.float32]:
        """Return ``(N, E)`` for features ``(N, D)``.

        Raises
        ------
        DataError
            Features of another width.

        Examples
        --------
        >>> SpaceMap(np.array([[0.0, 2.0]]), np.array([1.0])).apply([[5.0, 3.0]]).tolist()
        [[7.0]]
        """
        matrix = np.asarray(features, dtype=np.float32)
        if matrix.ndim != 2 or matrix.shape[1] != self.weight.shape[1]:
            raise DataError(
                f"space map: expected features (N, {self.weight.shape[1]}), found {matrix.shape}",
                hint="Use the base that the map starts from",
            )
        found: NDArray[np.float32] = matrix @ self.weight.T + self.bias
        return found

    def saying(self, **more: str) -> SpaceMap:
        """Return the same map with more in its table."""
        return replace(self, table={**self.table, **more})

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write one safetensors file, whole or not at all.

        Raises
        ------
        OutputError
            The file cannot be written, or the disk is full.
        """
        tensors = {"weight": torch.from_numpy(self.weight), "bias": torch.from_numpy(self.bias)}
        return Statistic.of(KIND, tensors, **self.table).save(path)


def open_map(path: str | os.PathLike[str]) -> SpaceMap:
    """Open what `SpaceMap.save` wrote.

    Raises
    ------
    CheckpointError
        No file, or one of something else.
    """
    found = open_statistic(path)
    names = set(found.checkpoint.tensors)
    if found.kind != KIND or names != {"weight", "bias"}:
        raise CheckpointError(
            f"{path}: expected a space map with weight and bias, found {found.kind!r} with "
            f"{', '.join(sorted(names))}",
            hint="Remove the file: taskloom select --surrogates makes it again",
        )
    tensors = found.tensors()
    return SpaceMap(tensors["weight"].numpy(), tensors["bias"].numpy(), dict(found.table))
