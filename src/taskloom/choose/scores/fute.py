"""FUTE: how alike the task embeddings of target and source data are in the space of one surrogate."""

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
def fute(features: ArrayLike, labels: ArrayLike, embedding_cosines: ArrayLike) -> float:
    """Likeness of the embeddings of target data and source data, fused by rank; higher is better.

    A surrogate, here the base, stays frozen; a head is fitted to the target's labelled examples, and one
    to examples of each source's task. The Fisher information of the surrogate's weights under a head is
    the embedding of that data set, as `taskloom.runs.unified` makes it. Embeddings are compared tensor
    by tensor by their cosine, and the ranks that a source has among all sources are fused as in
    ``taskemb``.

    Where paper, code and we differ: no code is public. The paper fine-tunes the surrogate, a T5, and
    embeds by TaskEmb or TuPaTE; ours only has its head fitted, all heads with one penalty.

    Parameters
    ----------
    features
        ``(N, D)`` of the source model; checked, but not looked at.
    labels
        ``(N,)`` integers; checked, but not looked at.
    embedding_cosines
        ``(K, P)`` cosines with the target's embedding, one for each of the surrogate's P tensors: of
        this source in the first row, of the other sources of the pool in the rows below.
        `taskloom.choose.rank` fills it in.

    Returns
    -------
    A number up to 1/61, which is being first in every tensor: the mean of ``1 / (60 + rank)``.

    Raises
    ------
    DataError
        No cosines; and see `taskloom.choose.checks.checked`.
    NumericalError
        NaN or infinity; and see `taskloom.choose.checks.checked`.

    Examples
    --------
    >>> round(2 * fute([[0.0], [1.0]], [0, 1], [[3, 2], [2, 3], [1, 1]]), 6)
    0.032522
    """
    checked("fute", features, labels)
    return fused("fute", embedding_cosines)
