"""How much the sparse regions of two tasks overlap, as a measure of how alike the tasks are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from taskloom.errors import CheckpointError, PlanError
from taskloom.store.statistic import Statistic


@dataclass(frozen=True, eq=False)
class MaskOverlap:
    """Overlaps of N masks.

    Attributes
    ----------
    names
        Of the tasks.
    sizes
        ``(N,)`` entries of every mask.
    shared
        ``(N, N)`` share of the row's mask that the column's holds too; not symmetric.
    union
        ``(N, N)`` intersection over union; symmetric.
    """

    names: tuple[str, ...]
    sizes: NDArray[np.int64]
    shared: NDArray[np.float64]
    union: NDArray[np.float64]

    def nearest(self, name: str) -> list[tuple[str, float]]:
        """Return the other tasks by the share of this one's mask that they hold, most first.

        Raises
        ------
        PlanError
            There is no such task.
        """
        if name not in self.names:
            raise PlanError(f"there is no mask of {name!r}; there are {', '.join(self.names)}")
        row = self.shared[self.names.index(name)]
        found = [(n, float(v)) for n, v in zip(self.names, row, strict=True) if n != name]
        return sorted(found, key=lambda pair: -pair[1])


def mask_overlap(masks: Mapping[str, Statistic]) -> MaskOverlap:
    """Compare the masks that ``taskloom collect graft`` learned, tensor by tensor.

    Panigrahi et al., Task-specific skill localization, ICML 2023, section 5: regions of like tasks
    overlap more. An empty mask shares nothing.

    Parameters
    ----------
    masks
        Task -> statistic ``graft``, all of one base.

    Raises
    ------
    PlanError
        Fewer than two masks, or a statistic of another kind.
    CheckpointError
        Masks of other tensors or shapes.
    """
    if len(masks) < 2:
        raise PlanError(f"an overlap needs two masks or more, and there is {len(masks)}")
    names, given = tuple(masks), list(masks.values())
    first = given[0].checkpoint.tensors
    for name, each in masks.items():
        if each.kind != "graft":
            raise PlanError(
                f"{each.label}: expected the statistic 'graft', found {each.kind!r}",
                hint="Collect it with: taskloom collect graft",
            )
        shapes = {n: info.shape for n, info in each.checkpoint.tensors.items()}
        if shapes != {n: info.shape for n, info in first.items()}:
            raise CheckpointError(
                f"the mask of {name!r} ({each.label}) has other tensors than that of {names[0]!r}",
                hint="Compare masks of one base, collected with the same options",
            )
    both = np.zeros((len(given), len(given)))
    for tensor in first:
        rows = np.stack([each.checkpoint.read(tensor).numpy().reshape(-1) != 0 for each in given])
        both += rows.astype(np.float64) @ rows.T
    sizes = both.diagonal()
    either = sizes[:, None] + sizes[None, :] - both
    return MaskOverlap(
        names,
        sizes.astype(np.int64),
        np.divide(both, sizes[:, None], out=np.zeros_like(both), where=sizes[:, None] > 0),
        np.divide(both, either, out=np.zeros_like(both), where=either > 0),
    )
