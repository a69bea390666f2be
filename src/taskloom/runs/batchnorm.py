"""Batch norm of a merge: means and variances of the merged weights, from inputs of tasks.

The merge is made once in memory and run on unlabelled training inputs; what is written afterwards has
the statistics that were found. The merged ones, which fit no model, take no part.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from taskloom.errors import CheckpointError, DataError, PlanError
from taskloom.evaluation.data import TaskData
from taskloom.evaluation.load import load_task
from taskloom.evaluation.task import get_task
from taskloom.learn.batchnorm import batchnorm_layers, reestimate_batchnorm
from taskloom.merging.executor import execute
from taskloom.merging.plan import plan_program
from taskloom.merging.program import Program
from taskloom.merging.stand_in import left_out, stand_in
from taskloom.models.encoder import Encoder
from taskloom.models.settings import FILE, read_settings
from taskloom.progress import Progress, silent
from taskloom.store.cache import canonical_digest
from taskloom.store.hub import resolve_model
from taskloom.store.safetensors_dir import SafetensorsCheckpoint

#: most training inputs of a task, and inputs of a batch
EXAMPLES, BATCH = 512, 64
_STATISTICS = ("running_mean", "running_var")


@dataclass(frozen=True)
class BatchNorm:
    """Estimates the batch norm of merges; called with a merge's program, before it is written.

    Attributes
    ----------
    encoder
        Of the base's architecture.
    tasks
        Whose training inputs are run; batches mix those of all tasks. No label is looked at.
    seed
        Of their order.
    progress
        Told how many inputs are done.
    """

    encoder: Encoder
    tasks: Sequence[TaskData]
    seed: int = 0
    progress: Progress = silent

    @property
    def note(self) -> str:
        """Which inputs, in words."""
        return f"batch norm of {' and '.join(data.task.name for data in self.tasks)}"

    @property
    def digest(self) -> str:
        """SHA-256 of what decides the statistics beside the weights."""
        return canonical_digest([[data.digest for data in self.tasks], self.seed, BATCH])

    @property
    def names(self) -> dict[str, str]:
        """Name inside the module -> stored name, of every mean and variance."""
        stored = {inside: name for name, inside in self.encoder.names.items()}
        return {
            f"{layer}.{which}": stored[f"{layer}.{which}"]
            for layer in batchnorm_layers(self.encoder.module)
            for which in _STATISTICS
        }

    def estimate(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return means and variances, by their stored names, of weights by theirs.

        Raises
        ------
        DataError
            Inputs that the model cannot take, or whose shapes differ from task to task.
        NumericalError
            Activations that are not finite.
        """
        own, places = self.encoder.module.state_dict(), self.encoder.names
        inside = {places[n]: t.to(own[places[n]].dtype) for n, t in weights.items() if n in places}
        found = reestimate_batchnorm(
            self.encoder.module, self._batches(), weights=inside, progress=self.progress
        )
        return {stored: found[name] for name, stored in self.names.items()}

    def finished(self, program: Program) -> dict[str, Tensor]:
        """Return all merged tensors, the statistics estimated, in the program's dtypes."""
        merged = dict(execute(plan_program(left_out(program, self.names.values()))))
        found = self.estimate(merged)
        return {name: found.get(name, t).to(t.dtype) for name, t in merged.items()}

    def __call__(self, program: Program) -> tuple[Program, dict[str, Any]]:
        """Return the program with estimated statistics, and what is recorded of them.

        The other tensors are those of the merge, of which the statistics are no part any more.
        """
        wanted = set(self.names.values()) & set(program.infos)
        program = left_out(program, wanted)
        found = self.estimate(dict(execute(plan_program(program), progress=self.progress)))
        given = {name: found[name] for name in program.infos if name in wanted}
        record = {
            "what": self.note,
            "tasks": {data.task.name: data.digest for data in self.tasks},
            "inputs": sum(len(data.train) for data in self.tasks),
            "seed": self.seed,
            "tensors": list(given),
        }
        return stand_in(program, given, f"<{self.note}>"), record

    def _batches(self) -> Iterator[Mapping[str, Tensor]]:
        every = [data.train.inputs for data in self.tasks]
        inputs: Any = [text for texts in every for text in texts]
        if self.encoder.modality == "image":
            pictures = [np.asarray(each) for each in every]
            pictures = [each[..., None] if each.ndim == 3 else each for each in pictures]
            shapes = {each.shape[1:] for each in pictures}
            if len(shapes) > 1:
                raise DataError(
                    f"{self.note}: expected images of one shape, found {sorted(shapes)}",
                    hint="Name tasks of one shape",
                )
            inputs = np.concatenate(pictures)
        encoded = self.encoder.encode(inputs)
        order = np.random.default_rng(self.seed).permutation(len(inputs))
        for rows in np.array_split(order, -(-len(order) // BATCH)):
            yield encoded.batch(rows)


def check_batch_norm(directory: Path, tasks: Sequence[str]) -> None:
    """Refuse what can be refused before weights or data are read.

    Raises
    ------
    UnknownName
        A task that is not registered.
    PlanError
        No task, one that is named twice, or one whose inputs the model does not take.
    CheckpointError
        The model has no batch norm that keeps statistics.
    """
    known = [get_task(task) for task in tasks]
    names = [task.name for task in known]
    for name in names:
        if names.count(name) > 1:
            raise PlanError(f"batch norm: task {name!r} is named twice", hint="Name each task once")
    if not names:
        raise PlanError(
            "batch norm is estimated on one task or more, and there is none", hint="Name a task"
        )
    stored = SafetensorsCheckpoint(directory).tensors
    if not any(name.endswith(_STATISTICS[0]) for name in stored):
        raise CheckpointError(
            f"{directory}: the model has no batch norm that keeps statistics, so there is none to "
            "estimate anew",
            hint="Merge it without",
        )
    modality = read_settings(directory).modality
    for task in known:
        if task.modality != modality:
            raise PlanError(
                f"batch norm: task {task.name!r} has inputs of the kind {task.modality!r}, but the "
                f"model {directory} takes {modality!r}",
                hint=f"Name another task, or say in the model's {FILE} what it takes",
            )


def batch_norm_of(
    model: str | Path,
    tasks: Sequence[str] | str,
    *,
    examples: int = EXAMPLES,
    seed: int = 0,
    progress: Progress = silent,
) -> BatchNorm:
    """Estimate the batch norm of a merge on unlabelled inputs; to be given to `taskloom.merge_files`.

    Parameters
    ----------
    model
        Directory or hub id with the architecture of the merge: the base, or an expert.
    tasks
        Registered tasks, or paths of annotations.
    examples
        Most training inputs of each.
    seed
        Of their choice and order.

    Raises
    ------
    UnknownName, PlanError, CheckpointError
        See `check_batch_norm`; a model that cannot be run.
    DataError, SourceUnreachable, IntegrityError
        The data of a task.
    """
    directory, names = resolve_model(str(model)), [tasks] if isinstance(tasks, str) else list(tasks)
    check_batch_norm(directory, names)
    encoder = Encoder.load(directory)
    loaded = [
        load_task(name, seed=seed, max_train=examples, max_test=2, progress=progress) for name in names
    ]
    return BatchNorm(encoder, loaded, seed, progress)
