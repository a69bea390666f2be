"""TaskShop: a source helps a new target if it helped targets that are like the new one."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpy.typing import ArrayLike
from pydantic import Field

from taskloom.choose.checks import Floats
from taskloom.choose.predictors.known import Known, mean_over_known
from taskloom.errors import DataError, NumericalError
from taskloom.registry import register

#: examples of the source and of the target that are compared, as released
SOURCE_EXAMPLES, TARGET_EXAMPLES = 100, 32


@register(
    "predictor",
    paper="Kim, Asai, Ilharco and Hajishirzi, TaskWeb, EMNLP 2023, section 4",
    partly={
        "TaskWeb / TaskShop": "a comparison of training on a few chosen sources, which "
        "taskloom.train_by_plan does, with larger sets of them"
    },
)
def taskshop(known: Known, *, share: Annotated[float, Field(ge=0, le=1)] = 0.7) -> Floats:
    """Transfer through every other target, averaged, mixed with the likeness of the source itself.

    ``share * mean_p [(T(s, p) + F(p, t)) / 2] + (1 - share) * F(s, t)`` over the pivots p, which are the
    other targets that the source was tried on; T is `transfer_score` and F the likeness (Kim et al.,
    TaskWeb, EMNLP 2023, section 4 and the released ``taskshop_predict.py``).

    Where paper, code and we differ: there every task is both source and target, so all pivots are the
    same but for the source itself; here a source may have been tried on fewer targets, and a source
    that was tried on none has no number. The released table holds 5 times the score less 0.6, which
    orders the same; one task is left out of the pivots by name there, and none here. Their call of the
    mean with three arguments does not run as released.

    Parameters
    ----------
    known
        Likenesses are F; see `roe` for that of the paper.
    share
        Of the pivots; the authors chose it on one task.

    Returns
    -------
    ``(S,)``; NaN for a source that was tried on no other target.

    Examples
    --------
    >>> runs = np.array([[[0.025, 0.02]], [[-0.0125, 0.02]], [[0.0, 0.02]]])
    >>> transfer_score(runs).round(6).tolist()
    [[-0.014583, 0.06]]
    """
    score = transfer_score(known.change)
    through = mean_over_known(0.5 * score + 0.5 * known.pivots[None, :], 1)
    return np.asarray(share * through + (1 - share) * known.likeness)


def transfer_score(change: ArrayLike) -> Floats:
    """Half the mean relative gain and half of ``0.2 * (share of runs above the base) - 0.1``.

    Parameters
    ----------
    change
        ``(K, ...)`` relative gains of K runs; NaN where there is none.

    Returns
    -------
    ``(...)``; NaN where no run is.

    Examples
    --------
    >>> float(transfer_score([0.04, 0.04, 0.04, 0.04]).round(6))
    0.07
    """
    runs = np.asarray(change, dtype=np.float64)
    above = np.where(np.isnan(runs), np.nan, (runs > 0).astype(np.float64))
    return combined(mean_over_known(runs, 0), mean_over_known(above, 0))


def combined(mean_change: ArrayLike, share_above: ArrayLike) -> Floats:
    """Return the transfer score of a mean relative gain and a share of runs above the base.

    >>> round(float(combined(0.04, 0.75)), 6)
    0.045
    """
    gain, share = (np.asarray(each, dtype=np.float64) for each in (mean_change, share_above))
    return np.asarray(0.5 * gain + 0.5 * (0.2 * share - 0.1))


def roe(target: ArrayLike, source: ArrayLike) -> float:
    """Likeness of two tasks by their examples: the mean over the target's of the nearest of the source.

    Cosines of embeddings, as in Retrieval of Experts (Jang et al., ICML 2023), which TaskShop takes F
    from. There texts are a task's answer choices followed by an input; here whatever was embedded.

    Parameters
    ----------
    target, source
        ``(n, D)`` and ``(m, D)`` embeddings; as released, 32 of the target and 100 of the source.

    Returns
    -------
    A number in [-1, 1]; 1 if every example of the target is one of the source's, too.

    Raises
    ------
    DataError
        Embeddings of different widths, or none.
    NumericalError
        An embedding of length 0, or one that is not finite.

    Examples
    --------
    >>> round(roe([[2.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 1.0]]), 6)
    0.853553
    """
    units = []
    for name, rows in (("target", target), ("source", source)):
        matrix = np.asarray(rows, dtype=np.float64)
        if matrix.ndim != 2 or 0 in matrix.shape:
            raise DataError(
                f"roe: expected embeddings (n, D) of the {name}, found {matrix.shape}",
                hint="Embed one example or more",
            )
        norms = np.linalg.norm(matrix, axis=1, keepdims=True)
        if not np.isfinite(norms).all() or (norms == 0).any():
            raise NumericalError(
                f"roe: expected finite embeddings of the {name} that are not 0, found row "
                f"{int((~np.isfinite(norms) | (norms == 0)).argmax())}",
                hint="Check the model that produced them",
            )
        units.append(matrix / norms)
    if units[0].shape[1] != units[1].shape[1]:
        raise DataError(
            f"roe: expected embeddings of one model, found {units[0].shape[1]} columns of the target "
            f"and {units[1].shape[1]} of the source",
            hint="Embed both with the base",
        )
    return float((units[0] @ units[1].T).max(1).mean())
