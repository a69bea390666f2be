"""How alike LoRA adapters are, told by what their factors do and not by what they are.

``B A`` does not change when A becomes M A and B becomes B M^-1, for any invertible M; A and B alone do,
so that comparing them entry by entry compares the luck of two initialisations. Everything here is a
function of the products B A alone: their inner products, which r x r matrices give without making a
product, and the spaces that their rows and columns span.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from taskloom.choose.checks import Floats
from taskloom.errors import PlanError
from taskloom.progress import Progress, silent
from taskloom.store.adapter import AdapterCheckpoint
from taskloom.store.pool import Pool


@dataclass(frozen=True)
class Factors:
    """A change ``left @ right`` of one tensor: (rows, r) and (r, columns), float64, scaling included."""

    left: Floats
    right: Floats


@dataclass(frozen=True, eq=False)
class LoraSimilarity:
    """Similarities of K adapters.

    Attributes
    ----------
    names
        Of the adapters.
    cosine
        ``(K, K)`` cosines of the changes over all adapted tensors; 0 with an adapter that changes
        nothing.
    inputs, outputs
        ``(K, K)`` in [0, 1]: how much the spaces overlap that changes read (spanned by rows) and write
        (by columns), averaged over the tensors that both adapt; 1 where the smaller space lies within
        the larger one, 0 where no tensor is adapted by both.
    """

    names: tuple[str, ...]
    cosine: NDArray[np.float64]
    inputs: NDArray[np.float64]
    outputs: NDArray[np.float64]


def lora_similarity(pool: Pool, *, progress: Progress = silent) -> LoraSimilarity:
    """Compare the adapters of a pool, one tensor of all of them at a time.

    Tensors that an adapter stores whole are left out. The overlap of two spaces with orthonormal bases
    U and V is ``|U^T V|_F^2 / min(dim U, dim V)`` (Hu et al., LoRA, ICLR 2022, section 7.2, eq. 4);
    there U are right singular vectors of A, which depend on the gauge, and here of B A, which do not.

    Raises
    ------
    PlanError
        An expert that is no LoRA adapter.
    """
    adapters = []
    for expert in pool:
        checkpoint = expert.checkpoint
        if not isinstance(checkpoint, AdapterCheckpoint):
            raise PlanError(
                f"expert {expert.name!r} ({checkpoint.label}): expected a LoRA adapter, "
                "found full weights",
                hint="Compare full weights by their task vectors, or run taskloom extract first",
            )
        adapters.append(checkpoint)
    low_rank = {name for adapter in adapters for name in adapter.low_rank}
    names = [name for name in pool.tensors if name in low_rank]
    total = np.zeros((len(adapters), len(adapters)))
    spaces = np.zeros((2, *total.shape))
    shared = np.zeros_like(total)
    for number, name in enumerate(names, start=1):
        factors = [_factors(adapter, name) for adapter in adapters]
        total += products(factors)
        inputs, outputs, both = overlaps(factors)
        spaces += np.stack([inputs, outputs])
        shared += both
        progress("compare adapters", number, len(names))
    norms = np.sqrt(np.maximum(total.diagonal(), 0.0))
    scale = np.outer(norms, norms)
    cosine = np.divide(total, scale, out=np.zeros_like(total), where=scale > 0).clip(-1, 1)
    np.fill_diagonal(cosine, 1.0)
    inputs, outputs = np.divide(spaces, shared, out=np.zeros_like(spaces), where=shared > 0)
    return LoraSimilarity(pool.names, cosine, inputs, outputs)


def products(factors: Sequence[Factors | None]) -> Floats:
    """Return ``(K, K)`` inner products of the changes ``B A``, without making one; None counts as 0.

    ``<B A, C D> = tr(A^T B^T C D)``, the sum of ``(B^T C) * (A D^T)``.

    Examples
    --------
    >>> one = Factors(np.array([[1.0], [2.0]]), np.array([[1.0, 1.0]]))
    >>> products([one, None])
    array([[10., 0.], [ 0., 0.]])
    """
    found = np.zeros((len(factors), len(factors)))
    for i, first in enumerate(factors):
        for j, second in enumerate(factors[: i + 1]):
            if first is not None and second is not None:
                value = ((first.left.T @ second.left) * (first.right @ second.right.T)).sum()
                found[i, j] = found[j, i] = value
    return found


def overlaps(factors: Sequence[Factors | None]) -> tuple[Floats, Floats, Floats]:
    """Return overlaps ``(K, K)`` of what changes read and write, and where both have a change."""
    bases = [None if each is None else spans(each) for each in factors]
    inputs, outputs, both = (np.zeros((len(factors), len(factors))) for _ in range(3))
    for i, first in enumerate(bases):
        for j, second in enumerate(bases):
            if first is None or second is None:
                continue
            size = min(first[0].shape[1], second[0].shape[1])
            if not size:
                continue
            both[i, j] = 1.0
            inputs[i, j] = ((first[0].T @ second[0]) ** 2).sum() / size
            outputs[i, j] = ((first[1].T @ second[1]) ** 2).sum() / size
    return inputs, outputs, both


def spans(factors: Factors) -> tuple[Floats, Floats]:
    """Return orthonormal bases (columns, k) of what a change reads and (rows, k) of what it writes.

    k is the rank of the product, up to rounding: a direction that one factor has and the other cancels
    is not in it.
    """
    q_left, r_left = np.linalg.qr(factors.left)
    q_right, r_right = np.linalg.qr(factors.right.T)
    u, singular, vt = np.linalg.svd(r_left @ r_right.T)
    limit = singular.max(initial=0.0) * max(factors.left.shape[0], factors.right.shape[1])
    rank = int((singular > limit * np.finfo(np.float64).eps).sum())
    return q_right @ vt.T[:, :rank], q_left @ u[:, :rank]


def _factors(adapter: AdapterCheckpoint, name: str) -> Factors | None:
    found = adapter.factors(name)
    if found is None:
        return None
    left, right, scaling = found
    wide = (each.detach().cpu().to(torch.float64).numpy() for each in (left, right))
    first, second = wide
    return Factors(first * scaling, second)
