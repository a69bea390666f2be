"""Domain divergence: how far the target's examples are from those the source was trained on."""

from __future__ import annotations

from typing import Literal

from numpy.typing import ArrayLike

from taskloom.choose.checks import checked, checked_beside
from taskloom.choose.divergences import OF_SAMPLES
from taskloom.errors import DataError
from taskloom.registry import register


@register(
    "score",
    paper="Pugantsov and McCreadie, Findings of EACL 2023; measures: Kashyap et al., NAACL 2021",
    partly={
        "Divergence-based domain transferability": "a run over many task pairs that reports how well "
        "the scores separate good pairs, and the time saved"
    },
)
def domain_divergence(
    features: ArrayLike,
    labels: ArrayLike,
    base_features: ArrayLike,
    source_features: ArrayLike,
    *,
    measure: Literal["mean_cosine", "frechet", "coral", "mmd", "proxy_a"] = "mmd",
) -> float:
    """Minus the divergence of source and target examples as the base sees them; higher is better.

    No source model is run: a source is told by its training examples alone. Measures and their formulas
    are in `taskloom.choose.divergences`; the kernel of ``"mmd"`` has the median distance as its width.

    Where paper, code and we differ: no code is public. The paper compares representations of a language
    model; ours are the base's pooled features.

    Parameters
    ----------
    features
        ``(N, D)`` of the source model; checked, but not looked at.
    labels
        ``(N,)`` integers; checked, but not looked at.
    base_features
        ``(N, B)`` of the base on the target's examples. `taskloom.choose.rank` fills it in.
    source_features
        ``(M, B)`` of the base on examples the source was trained on; filled in, too.
    measure
        ``"mean_cosine"``, ``"frechet"``, ``"coral"``, ``"mmd"`` or ``"proxy_a"``.

    Returns
    -------
    A number that is 0 (-2 to 2 for ``"proxy_a"``) when the two look the same, and falls as they part.
    Sources are comparable where they give equally many examples.

    Raises
    ------
    DataError
        Features of different widths; and see `taskloom.choose.checks.checked`.
    NumericalError
        Means of length 0 for ``"mean_cosine"``; and see `taskloom.choose.checks.checked`.

    Examples
    --------
    >>> target, source = [[0, 0], [1, 0], [0, 1], [1, 1]], [[1, 1], [2, 1], [1, 2], [2, 3]]
    >>> round(domain_divergence(target, [0, 0, 1, 1], target, source, measure="frechet"), 6)
    -2.726419
    """
    _, indices, _ = checked("domain_divergence", features, labels)
    target = checked_beside("domain_divergence", "base_features", base_features, n=len(indices))
    source = checked_beside("domain_divergence", "source_features", source_features)
    if source.shape[1] != target.shape[1]:
        raise DataError(
            f"domain_divergence: expected features of one model, found {target.shape[1]} columns of the "
            f"target and {source.shape[1]} of the source",
            hint="Run the base on both",
        )
    return -OF_SAMPLES[measure](target, source)
