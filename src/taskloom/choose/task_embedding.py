"""Embeddings of tasks by the Fisher information of a model's weights, and how far apart they are.

The statistic ``fisher`` (``taskloom collect fisher``) of one probe model on each task, its head fitted
to the task, gives Task2Vec (Achille et al., ICCV 2019); that of models tuned on each task gives TaskEmb
(Vu et al., EMNLP 2020). Embeddings are comparable where all are of one probe, or of models of one base.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import ArrayLike

from taskloom.choose.checks import Floats
from taskloom.errors import CheckpointError, DataError, NumericalError, PlanError
from taskloom.store.statistic import Statistic

#: constant of reciprocal rank fusion (Cormack et al., SIGIR 2009)
FUSION = 60
#: what FUTE's scores do not do of it
FUTE_PARTLY = {
    "FUTE": "prompted language models, which `taskloom.runs.unified.model_embedding` takes but none "
    "was run; likeness across models beside that of model-specific embeddings"
}


def task2vec(statistic: Statistic) -> Floats:
    """Return the embedding (F,): the Fisher information of every filter, which is a row of weights.

    Tensors of two axes or more are averaged over all but the first; biases and scales are left out, as
    is the head, which is not among the encoder's tensors.

    Where paper, code and we differ: the released code (awslabs/aws-cv-task2vec) squares the gradient of
    a batch's mean loss under drawn labels, which for two examples of opposite gradients gives 0 where
    each one's gradient squared does not. The statistic is of single examples, by default with the exact
    mean over labels.

    Raises
    ------
    PlanError
        Another statistic than ``fisher``, or one without matrices.
    """
    _check(statistic)
    known = statistic.checkpoint.tensors
    found = [
        statistic.checkpoint.read(name).double().flatten(1).mean(1).numpy()
        for name, info in known.items()
        if len(info.shape) >= 2
    ]
    if not found:
        raise PlanError(
            f"{statistic.label}: expected the Fisher information of some matrix, found none",
            hint="Collect it on an encoder",
        )
    return np.concatenate(found)


def taskemb_cosines(target: Statistic, sources: Mapping[str, Statistic]) -> dict[str, Floats]:
    """Return source -> ``(P,)`` cosines with the target, one for each tensor, in the target's order.

    Where paper, code and we differ: the released code (tuvuumass/task-transferability) embeds layers'
    outputs, too, and squares gradients of whole batches; our components are the tensors alone.
    A tensor in which either has no information at all has cosine 0.

    Raises
    ------
    PlanError
        Another statistic than ``fisher``.
    CheckpointError
        Statistics of different tensors.
    """
    _check(target)
    shapes = {name: info.shape for name, info in target.checkpoint.tensors.items()}
    found: dict[str, Floats] = {}
    for name, source in sources.items():
        _check(source)
        if {n: info.shape for n, info in source.checkpoint.tensors.items()} != shapes:
            raise CheckpointError(
                f"the Fisher information of {name!r} ({source.label}) has other tensors than that of "
                f"the target ({target.label})",
                hint="Collect all of them on one base",
            )
        found[name] = np.array([_cosine(target, source, tensor) for tensor in shapes])
    return found


def fuse(values: Mapping[str, Floats]) -> dict[str, float]:
    """Return each name's reciprocal rank fusion: the sum over components of 1 / (60 + rank), over P.

    Dividing by the number of components P keeps the order and makes numbers of different models
    comparable: 1/61 is first in every component. Equal values share the better rank.

    Parameters
    ----------
    values
        Name -> ``(P,)``, higher is better.

    Examples
    --------
    >>> fused = fuse({"a": np.array([3.0, 2.0]), "b": np.array([2.0, 3.0]), "c": np.array([1.0, 1.0])})
    >>> {name: round(2 * value, 6) for name, value in fused.items()}
    {'a': 0.032522, 'b': 0.032522, 'c': 0.031746}
    """
    table = np.stack(list(values.values()))
    ranks = 1 + (table[None, :, :] > table[:, None, :]).sum(1)
    fused = (1 / (FUSION + ranks)).mean(1)
    return dict(zip(values, fused.tolist(), strict=True))


def fused(score: str, cosines: ArrayLike) -> float:
    """Return the fused rank of the first row of cosines ``(K, P)`` among all; ``score`` is for messages.

    Raises
    ------
    DataError, NumericalError
        No cosines; NaN or infinity.
    """
    table = np.asarray(cosines, dtype=np.float64)
    if table.ndim != 2 or not table.size:
        raise DataError(
            f"{score}: expected cosines (K, P) of the sources' embeddings, found {table.shape}",
            hint="Give one row for each source, its own first",
        )
    if not np.isfinite(table).all():
        raise NumericalError(
            f"{score}: expected finite cosines, found NaN or infinity",
            hint="Check the Fisher information they are of",
        )
    return fuse({str(row): values for row, values in enumerate(table)})["0"]


def scaled_cosine(first: Floats, second: Floats) -> float:
    """Return 1 minus the cosine of h / (h + g) and g / (h + g): Task2Vec's own distance, in [0, 1].

    The released code adds 1e-8 to h + g, which outweighs the information itself where gradients are
    small; here a filter of which neither has any counts as 0 in both, and a common unit does not matter.
    """
    both = np.where(first + second > 0, first + second, 1.0)
    return _distance(first / both, second / both)


def variance_cosine(first: Floats, second: Floats) -> float:
    """Return 1 minus the cosine of the variances 1 / h (released as "normalized cosine")."""
    _positive(first, second)
    return _distance(1 / first, 1 / second)


def symmetric_kl(first: Floats, second: Floats) -> float:
    """Return the sum over filters of the larger of both divergences of Gaussians of variance 1 / h."""
    _positive(first, second)
    return float(np.maximum(_gaussian(first, second), _gaussian(second, first)).sum())


def asymmetric_kl(first: Floats, second: Floats) -> float:
    """Return the sum over filters of the divergence of the first's Gaussian from the second's."""
    _positive(first, second)
    return float(_gaussian(first, second).sum())


def jensen_shannon(first: Floats, second: Floats) -> float:
    """Return the mean divergence of both Gaussians from one of the mean variance, over filters."""
    _positive(first, second)
    middle = 2 / (1 / first + 1 / second)
    return float((_gaussian(first, middle) + _gaussian(second, middle)).mean() / 2)


def entropy(first: Floats, second: Floats) -> float:
    """Return ln 2 minus the mean entropy of h / (h + g), in [0, ln 2]; 1/2 where both are 0."""
    both = first + second
    share = np.divide(first, both, out=np.full_like(both, 0.5), where=both > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = [np.where(p > 0, p * np.log(p), 0.0) for p in (share, 1 - share)]
    return float(np.log(2) + (parts[0] + parts[1]).mean())


#: distances of two Task2Vec embeddings, 0 for equal ones
DISTANCES: Mapping[str, Callable[[Floats, Floats], float]] = {
    "scaled_cosine": scaled_cosine,
    "variance_cosine": variance_cosine,
    "symmetric_kl": symmetric_kl,
    "asymmetric_kl": asymmetric_kl,
    "jensen_shannon": jensen_shannon,
    "entropy": entropy,
}


def distances(
    target: Statistic, sources: Mapping[str, Statistic], *, measure: str = "scaled_cosine"
) -> dict[str, float]:
    """Return source -> Task2Vec distance from the target; 0 is the same task.

    Raises
    ------
    PlanError
        An unknown measure, or another statistic than ``fisher``.
    CheckpointError
        Embeddings of different lengths.
    NumericalError
        A filter without information, where a measure divides by it.
    """
    if measure not in DISTANCES:
        raise PlanError(f"unknown distance {measure!r}; there are {', '.join(DISTANCES)}")
    wanted = task2vec(target)
    found = {}
    for name, source in sources.items():
        own = task2vec(source)
        if own.shape != wanted.shape:
            raise CheckpointError(
                f"the embedding of {name!r} has {len(own)} filters and the target's {len(wanted)}",
                hint="Collect both on one probe",
            )
        found[name] = DISTANCES[measure](wanted, own)
    return found


def _check(statistic: Statistic) -> None:
    if statistic.kind != "fisher":
        raise PlanError(
            f"{statistic.label}: expected the statistic 'fisher', found {statistic.kind!r}",
            hint="Collect it with: taskloom collect fisher",
        )


def _cosine(first: Statistic, second: Statistic, tensor: str) -> float:
    a, b = (each.checkpoint.read(tensor).double().flatten() for each in (first, second))
    scale = float(a.norm() * b.norm())
    return float(a @ b) / scale if scale > 0 else 0.0


def _distance(first: Floats, second: Floats) -> float:
    scale = float(np.linalg.norm(first) * np.linalg.norm(second))
    if scale == 0:
        raise NumericalError(
            "task embedding: expected some Fisher information, found none",
            hint="Check that the head was fitted to the task",
        )
    return max(1 - float(first @ second) / scale, 0.0)


def _gaussian(first: Floats, second: Floats) -> Floats:
    """Return the divergence of N(0, 1/first) from N(0, 1/second) for every filter."""
    result: Floats = 0.5 * (second / first - 1 - np.log(second / first))
    return result


def _positive(*embeddings: Floats) -> None:
    missing = sum(int((each <= 0).sum()) for each in embeddings)
    if missing:
        raise NumericalError(
            f"task embedding: expected Fisher information above 0 everywhere, found {missing} filters "
            "without",
            hint="Use scaled_cosine or entropy",
        )
