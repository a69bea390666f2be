"""FUTE of models: how alike a source's answers and the target's labels are, as tasks of a surrogate."""

from __future__ import annotations

from numpy.typing import ArrayLike

from taskloom.choose.checks import checked
from taskloom.choose.task_embedding import FUTE_PARTLY, fused
from taskloom.registry import register


@register(
    "score",
    paper="Wang, Xu, Gui and He, Towards unified task embeddings, 2024 (2402.14522)",
    partly=FUTE_PARTLY,
)
def fute_answers(features: ArrayLike, labels: ArrayLike, answer_cosines: ArrayLike) -> float:
    """Likeness of the embeddings of target data and source model, fused by rank; higher is better.

    As ``fute``, but a source is embedded by what its own head answers to the target's inputs, not by its
    training data, which need not be known: the paper's model embedding.

    Where paper, code and we differ: as for ``fute``; and the paper asks models for answers to texts of
    many other tasks, where ours are asked for answers to the target's inputs.

    Parameters
    ----------
    features
        ``(N, D)`` of the source model; checked, but not looked at.
    labels
        ``(N,)`` integers; checked, but not looked at.
    answer_cosines
        ``(K, P)``, as ``embedding_cosines`` of ``fute``.

    Returns
    -------
    A number up to 1/61, as ``fute``.

    Raises
    ------
    DataError, NumericalError
        As for ``fute``.

    Examples
    --------
    >>> round(2 * fute_answers([[0.0], [1.0]], [0, 1], [[1, 1], [2, 3], [3, 2]]), 6)
    0.031746
    """
    checked("fute_answers", features, labels)
    return fused("fute_answers", answer_cosines)
