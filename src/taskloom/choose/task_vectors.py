"""How alike two experts' changes are: cosine and signs of their task vectors, streamed from disk."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from taskloom.choose.diff.sums import read_slice, slices
from taskloom.errors import PlanError
from taskloom.progress import Progress, silent
from taskloom.store.pool import Pool

SLICE = 1 << 22  #: about how many numbers of every expert are held at a time


def cosine_matrix(pool: Pool, *, progress: Progress = silent) -> NDArray[np.float64]:
    """Return ``(K, K)`` cosines between task vectors over all floating point tensors.

    One tensor of every expert is in memory at a time; products are summed in float64. An expert
    equal to the base has cosine 0 with all others and 1 with itself.

    Raises
    ------
    PlanError
        The pool has no base.

    References
    ----------
    Ilharco et al., Editing models with task arithmetic, ICLR 2023, section 6.1 and figure 5.
    """
    if pool.base is None:
        raise PlanError("task vectors need the base the experts were tuned from", hint="Give the base")
    gram = torch.zeros(len(pool), len(pool), dtype=torch.float64)
    names = pool.parameters()
    with torch.inference_mode():
        for number, name in enumerate(names, start=1):
            base = pool.base.read(name).to(torch.float32)
            deltas = torch.stack(
                [(e.checkpoint.read(name).to(torch.float32) - base).flatten() for e in pool]
            )
            gram += (deltas @ deltas.T).to(torch.float64)
            progress("compare task vectors", number, len(names))
    norms = gram.diagonal().sqrt()
    scale = torch.where(norms > 0, norms, torch.ones_like(norms))
    cosines = gram / scale[:, None] / scale[None, :]
    return np.asarray(cosines.clamp(-1, 1).fill_diagonal_(1.0).numpy())


def sign_agreement_matrix(
    pool: Pool, *, slice_elements: int = SLICE, progress: Progress = silent
) -> NDArray[np.float64]:
    """Return ``(K, K)`` shares of the numbers that both experts changed in which they go the same way.

    Half of them agree by chance. Two experts with no changed number in common agree in none (0), and
    each agrees with itself (1). Of every expert one slice of rows is in memory at a time.

    Parameters
    ----------
    slice_elements
        About how many numbers a slice has.

    Raises
    ------
    PlanError
        The pool has no base.

    References
    ----------
    Yadav et al., TIES-Merging, NeurIPS 2023, section 3, on sign conflicts between task vectors.
    """
    if pool.base is None:
        raise PlanError("task vectors need the base the experts were tuned from", hint="Give the base")
    both, signed = np.zeros((len(pool), len(pool))), np.zeros((len(pool), len(pool)))
    names = pool.parameters()
    with torch.inference_mode():
        for number, name in enumerate(names, start=1):
            for rows in slices(pool.tensors[name], slice_elements):
                base, tuned = read_slice(pool, name, rows)
                signs = torch.stack([(each - base).flatten() for each in tuned]).sign()
                both += (signs.abs() @ signs.abs().T).numpy()
                signed += (signs @ signs.T).numpy()
            progress("compare signs", number, len(names))
    shares = np.divide(both + signed, 2 * both, out=np.zeros_like(both), where=both > 0)
    np.fill_diagonal(shares, 1.0)
    return shares
