"""Candidates: the base, every expert, every merge, each as weights that one encoder can run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from taskloom.errors import NumericalError
from taskloom.merging.executor import execute, plan_merge
from taskloom.merging.recipe import Recipe
from taskloom.merging.statistics import Statistics, gather
from taskloom.runs.result import ModelRecord
from taskloom.store.cache import canonical_digest
from taskloom.store.checkpoint import Checkpoint
from taskloom.store.pool import Pool

if TYPE_CHECKING:
    from taskloom.runs.batchnorm import BatchNorm

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Candidate:
    """A model that may be reused.

    Attributes
    ----------
    name
        Unique within the run: ``base``, ``expert:<task>``, or the merge's label.
    digest
        Identifies the weights: their own digest, or for a merge that of its recipe and inputs.
    weights
        Gives the encoder's state dict; a merge is made when asked.
    recipe
        How it was merged, if it was.
    note
        What was done to the merge besides, in words.
    rival
        Whether it is a merge that nobody asked for, which those that were asked for have to beat.
    """

    name: str
    kind: Literal["base", "expert", "merge"]
    title: str
    digest: str
    weights: Callable[[], Weights]
    task: str | None = None
    recipe: Recipe | None = None
    note: str = ""
    rival: bool = False
    cost: Mapping[str, Any] = field(default_factory=dict)

    def record(self) -> ModelRecord:
        """Return what the report says of it."""
        recipe = self.recipe
        composition = [str(recipe.chain) if recipe else "", self.note]
        return ModelRecord(
            name=self.name,
            kind=self.kind,
            title=self.title,
            method=recipe.method if recipe else None,
            task=self.task,
            options=recipe.plain() if recipe else {},
            composition="; ".join(filter(None, composition)),
            digest=self.digest,
            **self.cost,
        )


def read_all(checkpoint: Checkpoint) -> Weights:
    """Read every tensor of a checkpoint that is to be run.

    Infinity is let through, which masks hold; the encoder says where it does harm.

    Raises
    ------
    NumericalError
        NaN in a tensor, naming the checkpoint.
    """
    found = {}
    for name in checkpoint.tensors:
        tensor = checkpoint.read(name)
        if tensor.is_floating_point() and (count := count_nan(tensor)):
            raise NumericalError(
                f"{checkpoint.label}: tensor {name!r} holds {count} NaN value{'s' * (count != 1)}",
                hint="Repair that checkpoint, or leave it out",
            )
        found[name] = tensor
    return found


def count_nan(tensor: Tensor) -> int:
    """Count NaN; a finite sum says there are none, which is quicker than looking.

    >>> count_nan(torch.tensor([1.0, float("nan"), float("inf")]))
    1
    """
    return 0 if bool(torch.isfinite(tensor.sum())) else int(torch.isnan(tensor).sum())


def singles(pool: Pool) -> list[Candidate]:
    """Return the base and every expert as candidates."""
    base = pool.yardstick
    found = [Candidate("base", "base", "Base", base.digest(), partial(read_all, base))]
    found += [
        Candidate(
            name=f"expert:{expert.name}",
            kind="expert",
            title=f"Expert {expert.name}",
            digest=expert.checkpoint.digest(),
            weights=partial(read_all, expert.checkpoint),
            task=expert.task,
        )
        for expert in pool.experts
    ]
    return found


def pool_digest(pool: Pool) -> str:
    """Return the digest of base and experts, in order, with their names."""
    members = [[e.name, e.checkpoint.digest()] for e in pool.experts]
    return canonical_digest([pool.yardstick.digest(), members])


def merge_digest(pool: Pool, recipe: Recipe, statistics: Statistics | None = None) -> str:
    """Return the digest of what a merge is made of; equal inputs and recipe, equal weights."""
    parts: list[Any] = [pool_digest(pool), recipe.method, recipe.plain(), str(recipe.chain)]
    known = gather(pool, statistics)
    if known:
        parts.append({n: [s.digest() for s in several] for n, several in known.items()})
    return canonical_digest(parts)


def merged(
    pool: Pool,
    recipe: Recipe,
    *,
    name: str,
    title: str,
    statistics: Statistics | None = None,
    norm: BatchNorm | None = None,
) -> Candidate:
    """Return a merge of the whole pool as a candidate; nothing is merged yet.

    ``norm`` estimates the batch norm of the merged weights anew.
    """
    plan = plan_merge(pool, recipe.chain, statistics=statistics)

    def weights() -> Weights:
        with torch.inference_mode():
            return dict(execute(plan)) if norm is None else norm.finished(plan.program)

    digest = merge_digest(pool, recipe, statistics)

    return Candidate(
        name=name,
        kind="merge",
        title=title,
        digest=digest if norm is None else canonical_digest([digest, norm.digest]),
        weights=weights,
        recipe=recipe,
        note="" if norm is None else norm.note,
        cost={"reads": plan.reads, "bytes_read": plan.bytes_read},
    )


def by_name(candidates: Sequence[Candidate]) -> dict[str, Candidate]:
    """Index candidates by name."""
    return {candidate.name: candidate for candidate in candidates}
