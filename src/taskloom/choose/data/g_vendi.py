"""G-Vendi: how diverse the gradients of a data set are, and choice from where they are sparse."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from taskloom.choose.keyed import digests, uniform
from taskloom.choose.lloyd import assign, cluster
from taskloom.choose.selector import Floats, Selector, same_width, unit
from taskloom.errors import DataError
from taskloom.registry import register

_NEGLIGIBLE = 1e-12


@register(
    "selector",
    paper="Jung et al., Prismatic Synthesis: gradient-based data diversification boosts generalization "
    "in LLM reasoning, 2025, sections 3 and 4",
    needs=("proxy",),
    partly={
        "G-Vendi / Prismatic Synthesis": "writing new examples with a generator; prediction of "
        "accuracy out of distribution over many runs"
    },
)
def g_vendi(
    *,
    share: Annotated[float, Field(gt=0, le=1)] = 0.1,
    most: Annotated[int, Field(ge=2)] = 1000,
    rounds: Annotated[int, Field(ge=1)] = 20,
    sparse: Annotated[float, Field(gt=0, le=1)] = 0.5,
) -> Selector:
    """Choose texts from regions of gradient space where there are few.

    Gradients of a small model on each text, projected and scaled to length 1, are clustered by k-means;
    texts of the smallest clusters are kept, at random among them, and others follow at random. A target
    is not needed: where there is one, its examples count as data that is there already, so that regions
    which they fill are not sparse. All gradients of the pool are held in memory.

    Where the paper and we differ: the paper writes new examples with a generator, clusters old and new,
    and keeps the new ones of sparse clusters; here the pool takes the place of the new ones. Its number
    of clusters is a tenth of the data; ``most`` bounds it, as clustering costs N times clusters. Its
    gradients are of Qwen2.5-0.5B-Instruct, ours of a small proxy (`taskloom.learn.mixtures.gradients`).
    We found no released code.

    Parameters
    ----------
    share
        Clusters, as a share of all examples.
    most
        Most clusters.
    rounds
        Rounds of k-means.
    sparse
        Share of the clusters, smallest first, that count as sparse.

    Examples
    --------
    >>> pool = np.array([[1.0, 0.01 * n] for n in range(6)] + [[0.0, 1.0]])
    >>> scorer = g_vendi(share=0.3).fit(None, pool, 0)
    >>> scorer(pool).argmax()
    np.int64(6)
    """
    return Selector(
        sees="gradient",
        fit=partial(_fit, share, most, rounds, sparse),
        whole=True,
        needs_target=False,
    )


def g_vendi_score(gradients: ArrayLike) -> float:
    """Return the diversity of a data set: the exponential of its gradients' entropy, in [1, N].

    With rows scaled to length 1, ``exp(-sum_i l_i ln l_i)`` over the eigenvalues l of the Gram matrix
    divided by N: the number of examples that differ, so to speak. Where N > D the D x D matrix is
    decomposed, which has the same eigenvalues but zeros.

    Parameters
    ----------
    gradients
        ``(N, D)``, finite, no row of zeros.

    Raises
    ------
    DataError, NumericalError
        No matrix, a row of zeros, NaN.

    Examples
    --------
    >>> round(g_vendi_score([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]]), 6)
    1.889882
    >>> round(g_vendi_score([[1.0, 2.0], [2.0, 4.0]]), 6)
    1.0
    """
    vectors = unit(gradients, "g_vendi")
    if (np.abs(vectors).sum(1) == 0).any():
        raise DataError("g_vendi: a gradient of zeros has no direction", hint="Leave blank texts out")
    n, width = vectors.shape
    gram = vectors.T @ vectors if n > width else vectors @ vectors.T
    values = np.linalg.eigvalsh(gram / n)
    values = values[values > _NEGLIGIBLE]
    return float(np.exp(-(values * np.log(values)).sum()))


@dataclass(frozen=True)
class Sparse:
    """Scores gradients: a draw in (0, 1), and 1 more in sparse clusters."""

    centres: Floats
    is_sparse: NDArray[np.bool_]
    seed: int

    def __call__(self, items: ArrayLike) -> Floats:
        """Score some gradients, ``(B,)``."""
        vectors = same_width(unit(items, "g_vendi"), self.centres.shape[1], "g_vendi")
        keys = digests(np.asarray(items, dtype=np.float64))
        scores: Floats = uniform(keys, self.seed) + self.is_sparse[assign(vectors, self.centres)]
        return scores


def _fit(
    share: float, most: int, rounds: int, sparse: float, target: Any, pool: Any, seed: int
) -> Sparse:
    vectors = unit(pool, "g_vendi")
    if target is not None and len(target):
        known = same_width(unit(target, "g_vendi"), vectors.shape[1], "g_vendi")
        vectors = np.concatenate([known, vectors])
    clusters = min(most, max(2, round(share * len(vectors))), len(vectors))
    centres, sizes = cluster(vectors, clusters, rounds=rounds, seed=seed)
    order = np.argsort(sizes, kind="stable")
    is_sparse = np.zeros(len(sizes), dtype=bool)
    is_sparse[order[: max(1, round(sparse * len(sizes)))]] = True
    return Sparse(centres, is_sparse, seed)
