"""MBC, model-based clustering: tasks whose adapters are alike share a group."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpy.typing import ArrayLike
from pydantic import Field

from taskloom.choose.kmeans import distances, kmeans
from taskloom.choose.set_choice import SetChoice, checked_size, checked_square
from taskloom.registry import register


@register("set", paper="Ostapenko et al., Towards modular LLMs, ICML 2024 (2405.11157), section 3.1")
def mbc(
    adapter_cosines: ArrayLike, *, size: Annotated[int, Field(ge=1)] = 4, seed: int = 42
) -> SetChoice:
    """Group adapters by k-means on the rows of the matrix of their cosines.

    Where paper, code and we differ: the released code (microsoft/mttl) flattens the adapters' factors,
    sets the smallest 80 % to 0, reduces them to 64 dimensions and takes cosines of that; factors depend
    on the gauge (see `taskloom.choose.lora_similarity`), so that two equal adapters may look unrelated.
    We take cosines of the changes ``B A`` themselves, in full. The k-means on rows is the released one:
    k-means++, the best of ten starts.

    Parameters
    ----------
    adapter_cosines
        ``(K, K)`` cosines of the changes of weights.
    size
        How many groups.
    seed
        Of the starts.

    Raises
    ------
    DataError
        No square, no symmetry, or a size that does not fit.
    NumericalError
        NaN or infinity.

    Examples
    --------
    >>> mbc([[1, 0.9, 0.0], [0.9, 1, 0.1], [0.0, 0.1, 1]], size=2).groups
    (0, 0, 1)
    """
    table = checked_square("mbc", "adapter_cosines", adapter_cosines)
    checked_size("mbc", size, len(table))
    found = kmeans(table, size, seed=seed)
    apart = distances(table, found.centres)
    members = [np.flatnonzero(found.groups == g) for g in range(size)]
    chosen = [int(rows[apart[rows, g].argmin()]) for g, rows in enumerate(members)]
    inside = [float(table[np.ix_(rows, rows)].mean()) for rows in members]
    reasons = []
    for i, g in enumerate(found.groups):
        others = [j for j in members[g] if j != i]
        said = f"mean cosine {table[i, others].mean():.3f} within" if others else "alone"
        reasons.append(f"group {g + 1}: {said}")
    note = f"squared distances within groups sum to {found.spread:.6g}"
    groups = tuple(int(g) for g in found.groups)
    return SetChoice(tuple(chosen), tuple(inside), groups, None, tuple(reasons), note)
