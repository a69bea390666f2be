"""Embedding nearest neighbours: texts whose embedding lies near one of the target's."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import numpy as np
from numpy.typing import ArrayLike
from pydantic import Field

from taskloom.choose.selector import Floats, Selector, same_width, unit
from taskloom.errors import DataError
from taskloom.registry import register

_CELLS = 1 << 22  # similarities that are held at once


@register(
    "selector", paper="The embedding baseline of Xia et al., LESS, ICML 2024", needs=("target", "model")
)
def nearest(*, neighbours: Annotated[int, Field(ge=1)] = 1) -> Selector:
    """Choose texts whose embedding is most like that of a target example.

    The score is the mean cosine with the ``neighbours`` target examples that are most alike; as many as
    there are gives the cosine with their mean direction.

    Parameters
    ----------
    neighbours
        Target examples that count for each text.

    Examples
    --------
    >>> scorer = nearest().fit([[1.0, 0.0], [0.0, 1.0]], None, 0)
    >>> scorer([[2.0, 0.0], [1.0, 1.0]]).round(6).tolist()
    [1.0, 0.707107]
    """
    return Selector(sees="embedding", fit=partial(_fit, neighbours))


@dataclass(frozen=True)
class Neighbours:
    """Scores vectors by their cosines with the most similar target vectors ``(M, D)``."""

    target: Floats
    count: int

    def __call__(self, items: ArrayLike) -> Floats:
        """Score some vectors, ``(B,)``."""
        vectors = same_width(unit(items, "nearest"), self.target.shape[1], "nearest")
        step = max(1, _CELLS // len(self.target))
        parts = [self._some(vectors[at : at + step]) for at in range(0, len(vectors), step)]
        return np.concatenate(parts)

    def _some(self, vectors: Floats) -> Floats:
        cosines = vectors @ self.target.T
        first = len(self.target) - self.count
        best: Floats = np.partition(cosines, first, axis=1)[:, first:].mean(1)
        return best


def _fit(neighbours: int, target: Any, first: Any, seed: int) -> Neighbours:
    vectors = unit(target, "nearest")
    if neighbours > len(vectors):
        raise DataError(
            f"nearest: {neighbours} neighbours of {len(vectors)} target examples",
            hint="Lower the option neighbours",
        )
    return Neighbours(vectors, neighbours)
