"""``taskloom.extract``: a LoRA adapter out of a full fine-tune."""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from taskloom.errors import CheckpointError, NumericalError, PlanError
from taskloom.merging.api import peak_memory
from taskloom.merging.extract_plan import Kinds, find_kinds, matching, modules_of
from taskloom.merging.factors import Target, truncate
from taskloom.progress import Progress, silent
from taskloom.store.adapter_layout import Layout, lay_out, lone, under
from taskloom.store.adapter_writer import WEIGHTS, AdapterWriter, write_adapter
from taskloom.store.checkpoint import Checkpoint
from taskloom.store.open import Source
from taskloom.store.pool import Pool, open_pool

#: embeddings of something else than words, which no output layer shares
_OTHER_EMBEDDING = re.compile(r"position|type|wpe|relative")


@dataclass(frozen=True)
class TensorLoss:
    """What became of one changed tensor.

    Attributes
    ----------
    name, shape
        The tensor.
    stored
        ``low-rank``, ``embedding`` (low-rank, looked up), ``whole`` (with its module), ``bias`` or
        ``lost``.
    rank
        Of a low-rank change.
    norm
        Frobenius norm of the task vector (expert - base).
    error
        Frobenius norm of task vector - stored change, divided by ``norm``; measured on the factors as
        they are stored.
    energy
        Share of the squared norm that is kept, ``1 - error ** 2``.
    method
        How a low-rank change was found: ``exact`` or ``randomised``.
    """

    name: str
    stored: str
    shape: tuple[int, ...]
    rank: int | None
    norm: float
    error: float
    energy: float
    method: str | None


@dataclass(frozen=True)
class ExtractReport:
    """What an extraction wrote, and what was lost by it.

    ``error`` and ``energy`` are those of all changed tensors together, lost ones included.
    """

    path: Path
    tensors: tuple[TensorLoss, ...]
    unchanged: int
    error: float
    energy: float
    adapter_bytes: int
    seconds: float
    peak_memory_bytes: int
    warnings: tuple[str, ...]

    @property
    def lost(self) -> tuple[TensorLoss, ...]:
        """Changed tensors that the adapter leaves at the base's values."""
        return tuple(each for each in self.tensors if each.stored == "lost")


def extract(
    base: Source,
    expert: Source,
    output: str | os.PathLike[str],
    *,
    rank: int | None = None,
    energy: float | None = None,
    max_rank: int | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    whole: Sequence[str] = (),
    embeddings: Sequence[str] = (),
    fan_in_fan_out: bool | None = None,
    drop_rest: bool = False,
    dtype: torch.dtype = torch.float32,
    exact_up_to: int = 1024,
    seed: int = 0,
    overwrite: bool = False,
    allow_pickle: bool = False,
    progress: Progress = silent,
) -> ExtractReport:
    """Write the PEFT LoRA adapter that comes closest to a full fine-tune.

    The task vector (expert - base) of every linear layer and embedding is cut to its leading singular
    directions, the closest matrix of that rank (Eckart and Young 1936). What else changed is stored
    as it is: biases by themselves, norms, convolutions and the like with their module
    (``modules_to_save``). Alpha equals rank, so that peft's scaling is 1. One tensor is held at a
    time.

    Parameters
    ----------
    base, expert
        The model and its fine-tune: directories, state dicts, modules or hub ids with the same
        tensors.
    output
        Directory to write; ``peft.PeftModel.from_pretrained(model, output)`` loads it on a model whose
        modules are called as in ``base``.
    rank
        Directions per matrix; all of them where a matrix has fewer.
    energy
        Instead of ``rank``: for each matrix the fewest directions that hold this share of its squared
        norm, written as ``rank_pattern`` and ``alpha_pattern``. 1 keeps everything.
    max_rank
        Limit to ``energy``'s choice.
    include, exclude
        Patterns of modules to make low-rank, or not: the name or its last parts, with ``*`` and ``?``.
        A changed matrix that is left out so is stored whole.
    whole
        Patterns of modules to store with all they hold, such as a head.
    embeddings
        Patterns of modules that are embeddings although their names do not tell.
    fan_in_fan_out
        Weights are stored (in, out), as in GPT-2; by default as the base's config says.
    drop_rest
        Leave out changed tensors that peft has no place for (parameters without a module of their
        own, such as ``logit_scale`` or ``embeddings.cls_token``); the report lists what is lost.
    dtype
        Of the factors.
    exact_up_to
        Matrices whose smaller side is larger are decomposed by a seeded randomised method; see
        `taskloom.merging.factors.truncate`. The error is measured in both cases.
    seed
        Of the randomised method.
    overwrite
        Replace an existing output.
    allow_pickle
        Permit pickled checkpoints, read with ``weights_only=True``.
    progress
        Told how many tensors are done.

    Raises
    ------
    PlanError
        Neither or both of rank and energy, a value out of range, a pattern that names nothing.
    CheckpointError
        Tensors that differ in name or shape, nothing that changed, or changes that peft cannot hold.
    NumericalError
        NaN or infinity in an input.
    OutputError
        The output exists or cannot be written.
    """
    begun = time.perf_counter()
    target = _target(rank, energy, max_rank)
    pool = open_pool(base, [expert], allow_pickle=allow_pickle)
    opened = pool.yardstick
    containers = matching(whole, modules_of(pool.tensors))
    kinds = find_kinds(
        base,
        opened,
        include=include,
        exclude=exclude,
        embeddings=embeddings,
        whole=containers,
        fan_in_fan_out=fan_in_fan_out,
    )
    job = _Job(pool, kinds, target, dtype, exact_up_to, seed, progress)
    with (
        torch.inference_mode(),
        write_adapter(
            output,
            pool.tensors,
            transposed=kinds.transposed,
            base_name=os.fspath(base) if isinstance(base, str | os.PathLike) else None,
            overwrite=overwrite,
        ) as writer,
    ):
        low, rest = job.decompose(writer)
        layout, lost = _rest(pool, rest, writer.adapted, containers, drop_rest)
        for name in (*layout.tensors, *layout.biases):
            writer.whole(name, job.expert.read(name))
        writer.finish(layout)
    kept = [_whole(job, name, rest[name], layout, lost) for name in rest]
    every = {each.name: each for each in (*low, *kept)}
    tensors = tuple(every[name] for name in pool.tensors if name in every)
    error = _overall(tensors)
    return ExtractReport(
        path=Path(output),
        tensors=tensors,
        unchanged=len(pool.tensors) - len(tensors),
        error=error,
        energy=1.0 - error**2,
        adapter_bytes=(Path(output) / WEIGHTS).stat().st_size,
        seconds=time.perf_counter() - begun,
        peak_memory_bytes=peak_memory(),
        warnings=_warnings(kinds, tensors),
    )


@dataclass(frozen=True)
class _Job:
    """What the passes over the tensors share."""

    pool: Pool
    kinds: Kinds
    target: Target
    dtype: torch.dtype
    exact_up_to: int
    seed: int
    progress: Progress

    @property
    def expert(self) -> Checkpoint:
        return self.pool.experts[0].checkpoint

    def decompose(self, writer: AdapterWriter) -> tuple[list[TensorLoss], dict[str, float]]:
        """Store the low-rank changes; return their losses, and the rest with its norms."""
        low: list[TensorLoss] = []
        rest: dict[str, float] = {}
        for done, name in enumerate(self.pool.tensors):
            self.progress("extract", done, len(self.pool.tensors))
            change = self.change(name)
            norm = math.sqrt(float(change.square().sum(dtype=torch.float64)))
            if norm == 0:
                continue
            if self.kinds.of[name] == "rest":
                rest[name] = norm
            else:
                low.append(self._truncate(writer, name, change))
        self.progress("extract", len(self.pool.tensors), len(self.pool.tensors))
        if not low:
            raise CheckpointError(
                f"{self.expert.label}: none of its matrices differs from {self.pool.yardstick.label}, "
                "and peft needs one at least",
                hint="Check that base and expert are not the same model, and the patterns",
            )
        return low, rest

    def change(self, name: str) -> Tensor:
        """Return expert - base in float32 (float64 if one of them is)."""
        before, after = self.pool.yardstick.read(name), self.expert.read(name)
        wide = torch.float64 if torch.float64 in (before.dtype, after.dtype) else torch.float32
        if not before.dtype.is_floating_point:
            wide = torch.float64
        change: Tensor = after.to(wide) - before.to(wide)
        if not bool(torch.isfinite(change).all()):
            count = int((~torch.isfinite(change)).sum())
            raise NumericalError(
                f"tensor {name!r}: {count} values of {self.expert.label} minus "
                f"{self.pool.yardstick.label} are NaN or infinite",
                hint="Repair the checkpoint that holds them",
            )
        return change

    def _truncate(self, writer: AdapterWriter, name: str, change: Tensor) -> TensorLoss:
        found = truncate(
            change,
            self.target,
            name=name,
            seed=self.seed,
            exact_up_to=self.exact_up_to,
            dtype=self.dtype,
        )
        embedding = self.kinds.of[name] == "embedding"
        writer.low_rank(name, found.left, found.right, embedding=embedding)
        return TensorLoss(
            name=name,
            stored="embedding" if embedding else "low-rank",
            shape=tuple(change.shape),
            rank=found.rank,
            norm=found.norm,
            error=found.residual / found.norm,
            energy=1.0 - (found.residual / found.norm) ** 2,
            method=found.method,
        )


def _target(rank: int | None, energy: float | None, max_rank: int | None) -> Target:
    if (rank is None) == (energy is None):
        found = "neither" if rank is None else "both"
        raise PlanError(f"expected a rank or an energy, found {found}", hint="Give one of them")
    if max_rank is not None and energy is None:
        raise PlanError("max_rank limits the ranks an energy asks for", hint="Give rank alone")
    return Target(rank=rank if energy is None else max_rank, energy=energy)


def _rest(
    pool: Pool,
    rest: dict[str, float],
    adapted: Sequence[str],
    containers: Sequence[str],
    drop: bool,
) -> tuple[Layout, tuple[str, ...]]:
    """Find the place of what is not low-rank; refuse or drop what has none."""
    lost = lone([name for name in rest if not under(name, containers)], pool.tensors)
    label = pool.experts[0].checkpoint.label
    if lost and not drop:
        more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
        raise CheckpointError(
            f"{label}: tensor {lost[0]!r}{more} changed, but is a parameter outside peft's layers "
            "that no adapter can hold",
            hint="Drop the rest (the loss is reported), or name a module around it to store whole",
        )
    changed = [name for name in rest if name not in lost]
    used = [module for module in containers if any(under(name, {module}) for name in changed)]
    layout = lay_out(changed, adapted=adapted, tensors=pool.tensors, containers=used, label=label)
    return layout, lost


def _whole(job: _Job, name: str, norm: float, layout: Layout, lost: tuple[str, ...]) -> TensorLoss:
    stored = "lost" if name in lost else "bias" if name in layout.biases else "whole"
    shape, error = job.pool.tensors[name].shape, float(stored == "lost")
    return TensorLoss(name, stored, shape, None, norm, error, 1.0 - error, None)


def _overall(tensors: Sequence[TensorLoss]) -> float:
    norm = math.sqrt(sum(each.norm**2 for each in tensors))
    return math.sqrt(sum((each.error * each.norm) ** 2 for each in tensors)) / norm


def _warnings(kinds: Kinds, tensors: Sequence[TensorLoss]) -> tuple[str, ...]:
    found = [t.name for t in tensors if t.stored == "embedding"] if kinds.tied else []
    tied = [name for name in found if not _OTHER_EMBEDDING.search(name)]
    if not tied:
        return ()
    return (
        f"the model uses its input embedding as output layer too (tie_word_embeddings): the change of "
        f"{', '.join(tied)} reaches the output layer only once peft has merged the adapter",
    )
