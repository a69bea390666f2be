"""What a look at a pool found, as plain data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

#: one number per expert, or per pair of experts; None where it is not defined
PerExpert = tuple[float | None, ...]
PerPair = tuple[tuple[float | None, ...], ...]


@dataclass(frozen=True)
class Region:
    """A part of the model, and what the K experts did to it.

    Attributes
    ----------
    row, column
        Layer (``layer 3``; outside the layers the module's name) and module type. Empty where all
        are taken together.
    tensors, parameters
        How many floating point tensors and numbers it has.
    base_norm
        Euclidean norm of the base's numbers.
    relative_norm
        (K,) norm of each task vector over ``base_norm``; None where the base is all zero.
    base_cosine
        (K,) cosine of each expert's weights with the base's.
    cosines
        (K, K) cosines of task vectors; None where one of them is zero.
    sign_conflict
        (K, K) share of the numbers changed by both in which the changes have opposite signs; None
        where no number was changed by both.
    any_conflict
        The share among numbers changed by two or more experts in which not all signs agree; None
        where there is none.
    effective_rank, stable_rank, rank_share
        (K,) means over the region's matrices: effective rank, stable rank, and effective rank
        over the largest one possible; None where there is no matrix or ranks were not asked for.
    """

    row: str
    column: str
    tensors: int
    parameters: int
    base_norm: float
    relative_norm: PerExpert
    base_cosine: PerExpert
    cosines: PerPair
    sign_conflict: PerPair
    any_conflict: float | None
    effective_rank: PerExpert
    stable_rank: PerExpert
    rank_share: PerExpert


@dataclass(frozen=True)
class MatrixRank:
    """How many directions one task vector uses in one matrix.

    Attributes
    ----------
    tensor, expert
        Whose.
    largest
        The smaller side of the matrix, the largest rank there can be.
    effective
        exp of the entropy of the singular values divided by their sum (Roy & Vetterli, EUSIPCO
        2007); 0 for a task vector of zeros. An estimate where ``how`` is ``sketch``.
    low, high
        Between which the truth lies, to about 1 %; both equal ``effective`` where it is exact.
    stable
        Squared Frobenius norm over squared spectral norm; 0 for zeros.
    how
        ``exact`` (all singular values), ``factors`` (those of a LoRA's two factors) or ``sketch``
        (the leading ones by a randomised SVD).
    """

    tensor: str
    expert: str
    largest: int
    effective: float
    low: float
    high: float
    stable: float
    how: Literal["exact", "factors", "sketch"]


@dataclass(frozen=True)
class Row:
    """A changed row of an embedding: its number, its token if known, and by how much it moved.

    ``change`` is the norm of the change over the norm of the base's row; None for a row of zeros.
    """

    number: int
    token: str | None
    change: float | None


@dataclass(frozen=True)
class ChangedRows:
    """The rows of an embedding that one expert changed.

    Attributes
    ----------
    tensor, expert
        Whose.
    rows, changed
        How many rows there are, and how many differ from the base's in at least one number.
    most
        The most changed, largest change first; rows of zeros that were filled come before all.
    """

    tensor: str
    expert: str
    rows: int
    changed: int
    most: tuple[Row, ...]


@dataclass(frozen=True)
class Finding:
    """Something to know before merging.

    Attributes
    ----------
    kind
        ``wrong-base``, ``identical``, ``equal-to-base``, ``already-merged``, ``not-finite``,
        ``integers`` or ``tokenizer``.
    experts
        Whom it concerns; empty for the base.
    message
        One sentence that names them.
    """

    kind: str
    experts: tuple[str, ...]
    message: str


@dataclass(frozen=True)
class Diff:
    """What K experts changed in their base.

    Attributes
    ----------
    base, experts
        The base's label and the experts' names.
    whole
        All floating point tensors together.
    regions
        Layer by module type, in the order of the model.
    layers, modules
        The same numbers by layer alone and by module type alone.
    ranks
        One entry per matrix and expert; empty if ranks were not asked for.
    vocabulary
        One entry per embedding and expert.
    findings
        Warnings; empty when nothing speaks against merging.
    notes
        How the numbers were made: what was held in memory whole, what is an estimate.
    bytes_read
        Of weights, over all passes.
    """

    base: str
    experts: tuple[str, ...]
    whole: Region
    regions: tuple[Region, ...]
    layers: tuple[Region, ...]
    modules: tuple[Region, ...]
    ranks: tuple[MatrixRank, ...]
    vocabulary: tuple[ChangedRows, ...]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = field(default=())
    bytes_read: int = 0

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """Indices of every two experts, in order."""
        count = len(self.experts)
        return tuple((i, j) for i in range(count) for j in range(i + 1, count))

    def mean_cosine(self, region: Region) -> float | None:
        """Return the mean over pairs of a region's cosines; None where no pair has one."""
        known = [c for i, j in self.pairs if (c := region.cosines[i][j]) is not None]
        return sum(known) / len(known) if known else None
