"""Divergences between two samples of vectors, and between two distributions over the same symbols.

The measures of Kashyap et al., "Domain divergences: a survey and empirical analysis", NAACL 2021, which
Pugantsov and McCreadie, "Divergence-based domain transferability for zero-shot classification", Findings
of EACL 2023, use to leave out source tasks before any training. Which of them they report was not found
out (no code of theirs is public), so all are here. Lower is closer everywhere in this file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from taskloom.choose.checks import Floats
from taskloom.errors import DataError, NumericalError

_BLOCK = 1024  # rows of a kernel matrix held at a time


def mean_cosine(a: Floats, b: Floats) -> float:
    """Return 1 minus the cosine of the samples' means, in [0, 2].

    Raises
    ------
    NumericalError
        A mean of length 0, which has no direction.
    """
    first, second = a.mean(0), b.mean(0)
    norms = np.linalg.norm(first) * np.linalg.norm(second)
    if norms == 0:
        raise NumericalError(
            "mean_cosine: expected samples whose means are not zero, found a mean of length 0",
            hint="Use another measure, such as mmd",
        )
    return float(1 - first @ second / norms)


def frechet(a: Floats, b: Floats) -> float:
    """Return Frechet's squared distance of two Gaussians: ``|dm|^2 + tr(C + D - 2 (C D)^(1/2))``.

    Covariances are divided by n - 1. The trace of the root is the sum of the singular values of the
    product of the two samples' roots, which takes no square root of a matrix and cannot turn complex.
    It grows as samples shrink: compare samples of equal size (Heusel et al., NeurIPS 2017).
    """
    x, y = _centred(a), _centred(b)
    root = np.linalg.svd(_root(x) @ _root(y).T, compute_uv=False).sum()
    apart = ((a.mean(0) - b.mean(0)) ** 2).sum()
    return float(max(apart + (x**2).sum() + (y**2).sum() - 2 * root, 0.0))


def coral(a: Floats, b: Floats) -> float:
    """Return the squared distance of the covariances over 4 D^2 (Sun and Saenko, ECCV 2016)."""
    x, y = _centred(a), _centred(b)
    difference = x.T @ x - y.T @ y
    return float((difference**2).sum() / (4 * a.shape[1] ** 2))


def mmd(a: Floats, b: Floats, *, bandwidth: float | None = None, unbiased: bool = False) -> float:
    """Return the squared maximum mean discrepancy under a Gaussian kernel (Gretton et al., JMLR 2012).

    Parameters
    ----------
    a, b
        ``(n, D)`` and ``(m, D)``.
    bandwidth
        sigma of ``exp(-|x - y|^2 / (2 sigma^2))``; None: the median distance of up to 1,000 examples.
    unbiased
        Leave out pairs of an example with itself; may then be negative.
    """
    sigma = median_distance(np.vstack([a[:500], b[:500]])) if bandwidth is None else bandwidth
    within = [_kernel_sum(each, each, sigma) for each in (a, b)]
    across = _kernel_sum(a, b, sigma) / (len(a) * len(b))
    sizes = [len(each) for each in (a, b)]
    if unbiased:
        pairs = [(total - n) / (n * (n - 1)) for total, n in zip(within, sizes, strict=True)]
    else:
        pairs = [total / n**2 for total, n in zip(within, sizes, strict=True)]
    return float(sum(pairs) - 2 * across)


def median_distance(rows: Floats) -> float:
    """Return the median Euclidean distance of different rows; 1 where half of the rows are the same."""
    squares = _squared(rows, rows)[np.triu_indices(len(rows), 1)]
    middle = float(np.sqrt(np.median(np.maximum(squares, 0.0))))
    return middle or 1.0


def proxy_a(a: Floats, b: Floats, *, folds: int = 5, seed: int = 0) -> float:
    """Return the proxy A-distance 2 (1 - 2 err), in [-2, 2], err that of telling the samples apart.

    err is the cross-validated error of the linear probe of ``linear_probe``, with both samples weighing
    the same (Ben-David et al., NeurIPS 2007). The larger sample is cut to the size of the smaller.

    Raises
    ------
    MissingExtra
        scikit-learn is not installed.
    """
    from taskloom.choose.scores.linear_probe import linear_probe

    size = min(len(a), len(b))
    rows = np.vstack([_drawn(a, size, seed), _drawn(b, size, seed)])
    right = linear_probe(rows, np.repeat([0, 1], size), folds=folds, seed=seed)
    return 2 * (1 - 2 * (1 - right))


def kl(p: Floats, q: Floats) -> float:
    """Return Kullback and Leibler's divergence of p from q in nats: the sum of p ln(p / q).

    Raises
    ------
    NumericalError
        q is 0 where p is not: smooth them first, see `smoothed`.
    """
    p, q = _distributions(p, q)
    _supported("kl", p, q)
    seen = p > 0
    return float((p[seen] * np.log(p[seen] / q[seen])).sum())


def js(p: Floats, q: Floats) -> float:
    """Return Jensen and Shannon's divergence in nats, in [0, ln 2]."""
    p, q = _distributions(p, q)
    middle = (p + q) / 2
    return (kl(p, middle) + kl(q, middle)) / 2


def js_distance(p: Floats, q: Floats) -> float:
    """Return the square root of Jensen and Shannon's divergence in bits: a metric in [0, 1]."""
    return float(np.sqrt(max(js(p, q), 0.0) / np.log(2)))


def renyi(p: Floats, q: Floats, *, alpha: float = 0.99) -> float:
    """Return Renyi's divergence ln(sum p^a q^(1-a)) / (a - 1) in nats; a not 1, which would be `kl`.

    Raises
    ------
    NumericalError
        alpha of 1 or not positive, or q 0 where p is not.
    """
    if alpha <= 0 or alpha == 1:
        raise NumericalError(
            f"renyi: expected a positive alpha other than 1, found {alpha}", hint="Use kl for alpha 1"
        )
    p, q = _distributions(p, q)
    _supported("renyi", p, q)
    seen = p > 0
    return float(np.log((p[seen] ** alpha * q[seen] ** (1 - alpha)).sum()) / (alpha - 1))


def bhattacharyya(p: Floats, q: Floats) -> float:
    """Return -ln of the sum of sqrt(p q).

    Raises
    ------
    NumericalError
        The two have no symbol in common.
    """
    p, q = _distributions(p, q)
    common = float(np.sqrt(p * q).sum())
    if common == 0:
        raise NumericalError(
            "bhattacharyya: expected distributions with a symbol in common, found none",
            hint="Smooth them, or use js",
        )
    return float(-np.log(min(common, 1.0)))


def cosine(p: Floats, q: Floats) -> float:
    """Return 1 minus the cosine of the two vectors of probabilities, in [0, 1]."""
    p, q = _distributions(p, q)
    return float(1 - p @ q / (np.linalg.norm(p) * np.linalg.norm(q)))


def wasserstein(p: Floats, q: Floats) -> float:
    """Return the earth mover's distance over the symbols' numbers: the sum of |F - G|."""
    p, q = _distributions(p, q)
    return float(np.abs(np.cumsum(p - q)).sum())


def energy(p: Floats, q: Floats) -> float:
    """Return the energy distance over the symbols' numbers: sqrt(2 times the sum of (F - G)^2)."""
    p, q = _distributions(p, q)
    return float(np.sqrt(2 * (np.cumsum(p - q) ** 2).sum()))


def smoothed(counts: Floats, *, add: float = 1.0) -> Floats:
    """Return probabilities of counts (V,), each count raised by ``add``."""
    raised = np.asarray(counts, dtype=np.float64) + add
    result: Floats = raised / raised.sum()
    return result


#: of two samples ``(n, D)`` and ``(m, D)``
OF_SAMPLES: Mapping[str, Callable[[Floats, Floats], float]] = {
    "mean_cosine": mean_cosine,
    "frechet": frechet,
    "coral": coral,
    "mmd": mmd,
    "proxy_a": proxy_a,
}
#: of two distributions ``(V,)`` over the same symbols
OF_DISTRIBUTIONS: Mapping[str, Callable[[Floats, Floats], float]] = {
    "kl": kl,
    "js": js,
    "js_distance": js_distance,
    "renyi": renyi,
    "bhattacharyya": bhattacharyya,
    "cosine": cosine,
    "wasserstein": wasserstein,
    "energy": energy,
}


def _centred(rows: Floats) -> Floats:
    """Return rows whose Gram matrix over columns is the covariance (n - 1)."""
    result: Floats = (rows - rows.mean(0)) / np.sqrt(max(len(rows) - 1, 1))
    return result


def _root(rows: Floats) -> Floats:
    """Return at most D rows with the same Gram matrix over columns."""
    if len(rows) <= rows.shape[1]:
        return rows
    return np.asarray(np.linalg.qr(rows, mode="r"))


def _squared(a: Floats, b: Floats) -> Floats:
    result: Floats = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
    return result


def _kernel_sum(a: Floats, b: Floats, sigma: float) -> float:
    total = 0.0
    for start in range(0, len(a), _BLOCK):
        squares = np.maximum(_squared(a[start : start + _BLOCK], b), 0.0)
        total += float(np.exp(-squares / (2 * sigma**2)).sum())
    return total


def _drawn(rows: Floats, size: int, seed: int) -> Floats:
    if len(rows) == size:
        return rows
    chosen = np.random.default_rng(seed % 2**32).choice(len(rows), size, replace=False)
    return rows[np.sort(chosen)]


def _distributions(p: Floats, q: Floats) -> tuple[Floats, Floats]:
    found = np.asarray(p, dtype=np.float64), np.asarray(q, dtype=np.float64)
    if found[0].ndim != 1 or found[0].shape != found[1].shape or not found[0].size:
        raise DataError(
            f"divergence: expected two distributions over the same symbols, "
            f"found shapes {found[0].shape} and {found[1].shape}",
            hint="Count both over one vocabulary",
        )
    for each in found:
        if not (each >= 0).all() or not abs(each.sum() - 1) <= 1e-6:
            raise DataError(
                f"divergence: expected probabilities that sum to 1, found the sum {each.sum():.6g}",
                hint="Divide the counts by their sum",
            )
    return found


def _supported(name: str, p: Floats, q: Floats) -> None:
    missing = int(((p > 0) & (q == 0)).sum())
    if missing:
        raise NumericalError(
            f"{name}: expected a second distribution that is positive wherever the first is, "
            f"found {missing} symbols of probability 0",
            hint="Smooth the counts, or use js",
        )
