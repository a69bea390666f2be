"""``taskloom.diff``: read base and experts once in slices, and matrices once more for their ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from taskloom.choose.diff import findings
from taskloom.choose.diff.matrices import EXACT, announce, matrix_names, rank_all
from taskloom.choose.diff.places import rows_and_columns
from taskloom.choose.diff.result import ChangedRows, Diff, Finding, MatrixRank, PerExpert, Region
from taskloom.choose.diff.sums import Sums, read_slice, region, slices
from taskloom.choose.diff.vocabulary import RowChanges, find_tokens, is_embedding
from taskloom.errors import PlanError
from taskloom.progress import Progress, silent
from taskloom.store.open import Source
from taskloom.store.pool import Expert, Pool, open_pool

#: elements of one slice of one checkpoint: 0.5 MB in float64, so that a few stay in cache
SLICE = 1 << 16


def diff(
    base: Source,
    experts: Sequence[Source | Expert] | Mapping[str, Source | Expert],
    *,
    names: Sequence[str] | None = None,
    ranks: bool = True,
    exact_rank_up_to: int = EXACT,
    rows: int = 20,
    slice_elements: int = SLICE,
    seed: int = 0,
    allow_pickle: bool = False,
    progress: Progress = silent,
) -> Diff:
    """Look at what experts changed in their base, before merging them.

    Layer by layer and module type by module type: how long each task vector (expert - base) is
    against the base, cosines between task vectors, how often their signs conflict, how many
    directions they use; the rows of embeddings that changed; and warnings of what speaks against a
    merge. Weights are read in slices, one of one tensor across the pool at a time and all in
    float64; only ranks may need a task vector of one matrix whole, which ``notes`` says.

    Parameters
    ----------
    base
        State dict, module, directory or hub id the experts were tuned from.
    experts
        Same kinds, adapters too, in order; a mapping gives them names.
    names
        Names of the experts.
    ranks
        Decompose the matrices as well: a second read, and most of the time.
    exact_rank_up_to
        Matrices whose smaller side is no larger are decomposed exactly; of larger ones only the
        leading singular values are found, and the effective rank is given with its bounds.
    rows
        How many of an embedding's most changed rows to list.
    slice_elements
        Numbers of one checkpoint in memory at a time, at least one row. It changes no number by
        more than the rounding of a float64 sum, and no count.
    seed
        Of the random sketch of large matrices.
    allow_pickle
        Permit pickled checkpoints, read with ``weights_only=True``.
    progress
        Told how many tensors, then how many matrices are done.

    Returns
    -------
    Diff
        Tensors that hold NaN or infinity are named in ``findings`` and left out of the numbers.

    Raises
    ------
    PlanError
        No base, or an option out of range.
    CheckpointError
        Keys, shapes or dtypes that differ, files that are malformed.
    SourceUnreachable
        A hub id that is neither cached nor reachable.

    References
    ----------
    Ilharco et al., Editing models with task arithmetic, ICLR 2023 (task vectors, their cosines);
    Yadav et al., TIES-merging, NeurIPS 2023, section 4.2 (sign conflicts); Roy & Vetterli, The
    effective rank, EUSIPCO 2007.

    Examples
    --------
    >>> base = {"w": torch.tensor([3.0, 4.0])}
    >>> a, b = {"w": torch.tensor([3.1, 4.0])}, {"w": torch.tensor([2.9, 4.2])}
    >>> found = diff(base, {"a": a, "b": b})
    >>> [round(norm, 3) for norm in found.whole.relative_norm], found.whole.sign_conflict[0][1]
    ([0.02, 0.045], 1.0)
    """
    for option, value in (("exact_rank_up_to", exact_rank_up_to), ("slice_elements", slice_elements)):
        if value < 1:
            raise PlanError(f"{option} must be 1 or more, found {value}")
    if rows < 0:
        raise PlanError(f"rows must be 0 or more, found {rows}")
    if base is None:
        raise PlanError("task vectors need the base the experts were tuned from", hint="Give the base")
    if isinstance(experts, Mapping) and names is None and _is_pool(experts):
        names, experts = list(experts), list(experts.values())
    pool = open_pool(base, experts, names=names, allow_pickle=allow_pickle)  # type: ignore[arg-type]
    with torch.inference_mode():
        seen = _read(pool, slice_elements, rows, progress)
        matrices = [name for name in matrix_names(pool) if name not in seen.spoiled] if ranks else []
        found = rank_all(
            pool,
            matrices,
            exact=exact_rank_up_to,
            slice_elements=slice_elements,
            seed=seed,
            progress=progress,
        )
    return _assemble(pool, seen, found, announce(pool, matrices, exact_rank_up_to))


def _is_pool(experts: Mapping[str, object]) -> bool:
    """Tell names -> experts from one state dict given by mistake, which the pool refuses."""
    return not any(isinstance(value, torch.Tensor) for value in experts.values())


@dataclass
class _Seen:
    """What the first read gathers.

    ``unequal`` is (K + 1, K + 1), the base first, over all tensors; ``broken`` counts NaN and
    infinity by owner (empty for the base) and tensor.
    """

    unequal: NDArray[np.bool_]
    tensors: dict[str, Sums] = field(default_factory=dict)
    broken: dict[tuple[str, str], int] = field(default_factory=dict)
    vocabulary: list[ChangedRows] = field(default_factory=list)
    integers: dict[str, list[int]] = field(default_factory=dict)
    unreadable: str | None = None

    @property
    def spoiled(self) -> set[str]:
        """Tensors that are left out of the numbers."""
        return {tensor for _, tensor in self.broken}


def _read(pool: Pool, slice_elements: int, rows: int, progress: Progress) -> _Seen:
    size = len(pool) + 1
    seen = _Seen(np.zeros((size, size), np.bool_))
    embeddings = {n for n in pool.parameters() if is_embedding(n, pool.tensors[n])}
    tokens: dict[int, str] = {}
    if embeddings and rows:
        tokens, seen.unreadable = find_tokens(pool)
    for number, (name, info) in enumerate(pool.tensors.items(), start=1):
        if not info.dtype.is_floating_point:
            _compare_integers(pool, name, slice_elements, seen)
        else:
            changes = RowChanges() if name in embeddings else None
            sums = _read_tensor(pool, name, slice_elements, changes, seen)
            seen.unequal |= sums.unequal
            if name not in seen.spoiled:
                seen.tensors[name] = sums
                if changes is not None:
                    seen.vocabulary += changes.report(name, pool.names, tokens, rows)
        progress("compare weights", number, len(pool.tensors))
    return seen


def _read_tensor(
    pool: Pool, name: str, slice_elements: int, changes: RowChanges | None, seen: _Seen
) -> Sums:
    sums = Sums.zero(len(pool))
    sums.tensors = 1
    for rows in slices(pool.tensors[name], slice_elements):
        base, tuned = read_slice(pool, name, rows)
        counts = [int((~tensor.isfinite()).sum()) for tensor in (base, *tuned)]
        for owner, count in zip(("", *pool.names), counts, strict=True):
            if count:
                seen.broken[owner, name] = seen.broken.get((owner, name), 0) + count
        if any(counts):
            sums.unequal |= _unequal([base, *tuned])
            continue
        taus = [tensor - base for tensor in tuned]
        if changes is not None:
            changes.see(base, taus)
        sums.see(base.flatten(), torch.stack([tau.flatten() for tau in taus]))
    return sums


def _compare_integers(pool: Pool, name: str, slice_elements: int, seen: _Seen) -> None:
    assert pool.base is not None
    unequal = np.zeros_like(seen.unequal)
    for rows in slices(pool.tensors[name], slice_elements):
        sources = (pool.base, *(expert.checkpoint for expert in pool))
        unequal |= _unequal([source.read(name, rows).detach().cpu() for source in sources])
    seen.unequal |= unequal
    if differing := np.flatnonzero(unequal[0, 1:]).tolist():
        seen.integers[name] = differing


def _unequal(tensors: Sequence[torch.Tensor]) -> NDArray[np.bool_]:
    """Return (K + 1, K + 1): whether two tensors differ anywhere; NaN differs from everything."""
    return np.array([[not torch.equal(a, b) for b in tensors] for a in tensors])


def _assemble(pool: Pool, seen: _Seen, ranks: list[MatrixRank], notes: list[str]) -> Diff:
    assert pool.base is not None
    rows, columns = rows_and_columns(seen.tensors)
    by_tensor: dict[str, list[MatrixRank]] = {}
    for rank in ranks:
        by_tensor.setdefault(rank.tensor, []).append(rank)

    def grouped(key: Callable[[str], tuple[str, str]]) -> tuple[Region, ...]:
        parts: dict[tuple[str, str], list[str]] = {}
        for name in rows:
            parts.setdefault(key(name), []).append(name)
        return tuple(
            _region(len(pool), *place, [(seen.tensors[n], by_tensor.get(n, [])) for n in inside])
            for place, inside in parts.items()
        )

    whole = _region(
        len(pool), "", "", [(sums, by_tensor.get(n, [])) for n, sums in seen.tensors.items()]
    )
    matrices = {rank.tensor for rank in ranks}
    return Diff(
        base=pool.base.label,
        experts=pool.names,
        whole=whole,
        regions=grouped(lambda name: (rows[name], columns[name])),
        layers=grouped(lambda name: (rows[name], "")),
        modules=grouped(lambda name: ("", columns[name])),
        ranks=tuple(ranks),
        vocabulary=tuple(seen.vocabulary),
        findings=tuple(_findings(pool, seen)),
        notes=tuple(notes),
        bytes_read=_bytes(pool, pool.tensors) + _bytes(pool, matrices, per_expert_base=True),
    )


def _findings(pool: Pool, seen: _Seen) -> list[Finding]:
    assert pool.base is not None
    total = Sums.zero(len(pool))
    for sums in seen.tensors.values():
        total.add(sums)
    found = findings.not_finite(seen.broken)
    found += findings.look(pool.names, pool.base.label, total, seen.unequal, _epsilons(pool))
    found += findings.integers(pool.names, seen.integers)
    if seen.unreadable:
        found.append(Finding("tokenizer", (), seen.unreadable))
    return found


def _epsilons(pool: Pool) -> list[float]:
    """Return each expert's coarsest rounding."""
    return [
        max((torch.finfo(e.checkpoint.tensors[n].dtype).eps for n in pool.parameters()), default=0.0)
        for e in pool
    ]


def _bytes(pool: Pool, names: Iterable[str], *, per_expert_base: bool = False) -> int:
    assert pool.base is not None
    bases = len(pool) if per_expert_base else 1
    return sum(
        bases * pool.base.tensors[name].nbytes + sum(e.checkpoint.tensors[name].nbytes for e in pool)
        for name in names
    )


def _region(
    experts: int, row: str, column: str, parts: Sequence[tuple[Sums, list[MatrixRank]]]
) -> Region:
    total = Sums.zero(experts)
    ranks: list[tuple[PerExpert, ...]] = []
    for sums, matrices in parts:
        total.add(sums)
        if matrices:
            effective = tuple(rank.effective for rank in matrices)
            stable = tuple(rank.stable for rank in matrices)
            ranks.append((effective, stable, tuple(rank.effective / rank.largest for rank in matrices)))
    return region(row, column, total, ranks)
