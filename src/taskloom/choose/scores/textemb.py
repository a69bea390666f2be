"""TextEmb: whether the texts of source and target point the same way in the base's space."""

from __future__ import annotations

from numpy.typing import ArrayLike

from taskloom.choose.scores.domain_divergence import domain_divergence
from taskloom.registry import register


@register("score", paper="Vu et al., Exploring and predicting transferability, EMNLP 2020, section 5.1")
def textemb(
    features: ArrayLike,
    labels: ArrayLike,
    base_features: ArrayLike,
    source_features: ArrayLike,
) -> float:
    """Cosine of the mean base features of the target's and the source's examples; higher is better.

    Where paper, code and we differ: the paper averages a BERT's last token vectors over the mask and
    then over examples; that is this with a base of mean pooling. With another pooling the base's own
    vectors are averaged. Embeddings of most texts share a large common direction, so values lie close
    together and their order is what counts.

    Parameters
    ----------
    features
        ``(N, D)`` of the source model; checked, but not looked at.
    labels
        ``(N,)`` integers; checked, but not looked at.
    base_features, source_features
        As for ``domain_divergence``.

    Returns
    -------
    A number in [-1, 1].

    Raises
    ------
    DataError, NumericalError
        As for ``domain_divergence``.

    Examples
    --------
    >>> target, source = [[0, 0], [1, 0], [0, 1], [1, 1]], [[1, 1], [2, 1], [1, 2], [2, 3]]
    >>> round(1 - textemb(target, [0, 0, 1, 1], target, source), 6)
    0.002946
    """
    given = (features, labels, base_features, source_features)
    return 1 + domain_divergence(*given, measure="mean_cosine")
