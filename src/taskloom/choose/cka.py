"""How alike two models see the same examples: centred kernel alignment of their features."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from taskloom.choose.checks import Floats
from taskloom.errors import DataError


def cka_matrix(features: Sequence[Floats]) -> Floats:
    """Return ``(K, K)`` linear CKA of K models' features of the same N examples, in [0, 1].

    Kornblith et al., Similarity of neural network representations revisited, ICML 2019, eq. 3: 1 where
    one is the other turned, scaled and shifted. Models of different widths can be compared. A model
    whose features do not differ between examples has 0 with all others. With N not much larger than the
    widths, unrelated features look alike, too.

    Parameters
    ----------
    features
        ``(N, D_k)`` each.

    Raises
    ------
    DataError
        Features of different examples.

    Examples
    --------
    >>> x = np.array([[0.0, 1.0], [1.0, 0.0], [2.0, 2.0]])
    >>> cka_matrix([x, 3 * x[:, ::-1] + 1]).round(6).tolist()
    [[1.0, 1.0], [1.0, 1.0]]
    """
    sizes = {len(each) for each in features}
    if len(sizes) != 1:
        raise DataError(
            f"CKA: expected features of the same examples, found {sorted(sizes)} rows",
            hint="Run every model on the same inputs",
        )
    centred = [each - each.mean(0) for each in (np.asarray(f, dtype=np.float64) for f in features)]
    alike = np.zeros((len(centred), len(centred)))
    for i, first in enumerate(centred):
        for j, second in enumerate(centred[: i + 1]):
            alike[i, j] = alike[j, i] = ((first.T @ second) ** 2).sum()
    norms = np.sqrt(alike.diagonal())
    scale = np.outer(norms, norms)
    found: Floats = np.divide(alike, scale, out=np.zeros_like(alike), where=scale > 0).clip(0, 1)
    np.fill_diagonal(found, 1.0)
    return found
