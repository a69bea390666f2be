"""What one seed and kind of experts is measured on: tasks, heads, the base, and trained experts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from taskloom.algebra import Chain
from taskloom.errors import PlanError
from taskloom.evaluation.data import TaskData
from taskloom.evaluation.load import load_task
from taskloom.learn.options import TrainOptions
from taskloom.learn.train import TrainedExpert
from taskloom.models.encoder import Encoder
from taskloom.models.head import Head
from taskloom.progress import Progress, silent
from taskloom.runs.base import base_directory
from taskloom.runs.candidates import Candidate
from taskloom.runs.claims.suite import Kind, Suite
from taskloom.runs.features import Reader
from taskloom.runs.heads import head_for
from taskloom.runs.known import Sampling, statistics_for
from taskloom.runs.plan import Plan
from taskloom.runs.sweep import Bench
from taskloom.runs.train import tune
from taskloom.runs.workspace import Workspace
from taskloom.store.adapter import WEIGHTS, AdapterCheckpoint
from taskloom.store.cache import cache_root
from taskloom.store.memory import MemoryCheckpoint
from taskloom.store.open import open_checkpoint
from taskloom.store.pool import Expert, Pool
from taskloom.store.statistic import Statistic


@dataclass(frozen=True)
class Ground:
    """What all kinds of experts of a seed share: the base, the tasks, and their heads."""

    suite: Suite
    seed: int
    reader: Reader
    tasks: tuple[TaskData, ...]
    heads: Mapping[str, Head]

    @property
    def encoder(self) -> Encoder:
        """The base."""
        return self.reader.encoder

    @property
    def progress(self) -> Progress:
        """Who is told how far the work is."""
        return self.reader.progress

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the tasks, in the suite's order."""
        return tuple(data.task.name for data in self.tasks)


@dataclass(frozen=True)
class Stage:
    """A ground with experts of one kind, of its first tasks.

    Attributes
    ----------
    stored
        Base and experts as they are stored, all tensors.
    pool
        The same in memory, without the tensors that no expert changed: what is merged. Papers merge
        what was tuned, and shares of entries (``density``) are meant of that.
    trained
        How the experts came about.
    """

    ground: Ground
    kind: Kind
    plan: Plan
    stored: Pool
    pool: Pool
    trained: tuple[TrainedExpert, ...]

    def first(self, count: int) -> Pool:
        """Return the in-memory pool of the first ``count`` tasks."""
        return Pool(self.pool.base, self.pool.experts[:count])

    def first_stored(self, count: int) -> Pool:
        """Return the stored pool of the first ``count`` tasks."""
        return Pool(self.stored.base, self.stored.experts[:count])

    @property
    def bench(self) -> Bench:
        """What statistics are collected with."""
        ground = self.ground
        return Bench(
            ground.reader.workspace,
            ground.encoder,
            ground.tasks,
            ground.heads,
            self.plan,
            ground.progress,
        )

    def statistics(self, chain: Chain, count: int) -> dict[str, list[Statistic]] | None:
        """Collect what a chain needs of the first ``count`` experts; None if it needs nothing.

        All experts of the stage are compared with one another where a statistic compares, so that
        pools of every size share it.
        """
        found = self.collect(chain)
        if found is None:
            return None
        wanted = set(self.pool.tensors)
        return {
            expert.name: [restricted(each, wanted, expert.name) for each in found[expert.name]]
            for expert in self.pool.experts[:count]
        }

    def collect(self, chain: Chain) -> Mapping[str, list[Statistic]] | None:
        """Collect what a chain needs of every stored expert, as far as the cache lacks it."""
        how = {
            name: Sampling(each.examples, each.options)
            for name, each in self.ground.suite.statistics.items()
        }
        return statistics_for(self.stored, chain, self.bench, how)

    @property
    def base_bytes(self) -> int:
        """Bytes of the base's tensors."""
        return sum(info.nbytes for info in self.stored.tensors.values())

    @property
    def kept_bytes(self) -> int:
        """Bytes of those that no expert changed."""
        return self.base_bytes - sum(info.nbytes for info in self.pool.tensors.values())

    def expert_bytes(self, count: int) -> int:
        """Bytes of the first ``count`` experts, and of the base where they are adapters."""
        found, needs_base = 0, False
        for expert in self.stored.experts[:count]:
            if isinstance(expert.checkpoint, AdapterCheckpoint):
                found += (expert.checkpoint.path / WEIGHTS).stat().st_size
                needs_base = True
            else:
                found += sum(info.nbytes for info in expert.checkpoint.tensors.values())
        return found + self.base_bytes * needs_base


def restricted(statistic: Statistic, names: set[str], expert: str) -> Statistic:
    """Leave out what a statistic says of other tensors; messages name the expert, not a file."""
    kept = {
        name: statistic.checkpoint.read(name) for name in statistic.checkpoint.tensors if name in names
    }
    return Statistic(statistic.kind, MemoryCheckpoint(kept, label=expert), statistic.table)


def lay_ground(suite: Suite, seed: int, *, progress: Progress = silent) -> Ground:
    """Load base and tasks, and fit one head per task on frozen features of the base.

    Raises
    ------
    DataError, CheckpointError, SourceUnreachable, IntegrityError
        See `taskloom.evaluation.load` and `taskloom.store`.
    """
    directory = base_directory(suite.base_plan(), progress=progress)
    encoder = Encoder.load(directory, max_length=suite.evaluation.max_length)
    reader = Reader(Workspace(cache_root() / "claims"), encoder, suite.evaluation, progress)
    base = Candidate("base", "base", "Base", encoder.digest(), encoder.state_dict)
    tasks, heads = [], {}
    for item in suite.tasks:
        limits = item.limits or suite.limits
        data = load_task(
            item.task,
            seed=seed,
            max_train=limits.train,
            max_validation=limits.validation,
            max_test=limits.test,
            progress=progress,
        )
        features = reader.read([base], [data], "train")["base", data.task.name]
        head = head_for(reader.workspace, data.task, features, data.train.labels, seed=seed)
        tasks.append(data)
        heads[data.task.name] = head
        progress(f"{suite.name}: read tasks", len(tasks), len(suite.tasks))
    return Ground(suite, seed, reader, tuple(tasks), heads)


def set_stage(ground: Ground, kind: Kind, count: int) -> Stage:
    """Train the experts of the first ``count`` tasks that are not in the cache, and open them.

    Raises
    ------
    PlanError, CheckpointError, NumericalError, OutputError
        See `taskloom.learn.train`; experts that change no tensor at all.
    """
    plan = ground.suite.plan(kind, ground.seed)
    options = TrainOptions.parse({"seed": ground.seed, **plan.train})
    base = open_checkpoint(ground.encoder.directory)
    trained, experts = [], []
    for data in ground.tasks[:count]:
        name = data.task.name
        one = tune(ground.reader, ground.heads[name], data, options)
        trained.append(one)
        experts.append(Expert(name, open_checkpoint(one.directory, base=base), name))
        label = f"{ground.suite.name}: {kind} experts of seed {ground.seed}"
        ground.progress(label, len(trained), count)
    stored = Pool(base, tuple(experts))
    return Stage(ground, kind, plan, stored, in_memory(stored), tuple(trained))


def in_memory(stored: Pool) -> Pool:
    """Read a pool, without the tensors that every expert left as they are in the base.

    Raises
    ------
    PlanError
        No expert changed any tensor.
    """
    base = stored.yardstick
    own = {name: base.read(name) for name in base.tensors}
    read = [{name: expert.checkpoint.read(name) for name in own} for expert in stored.experts]
    moved = [name for name, tensor in own.items() if any(not torch.equal(e[name], tensor) for e in read)]
    if not moved:
        raise PlanError("the experts are all equal to the base", hint="Train them longer")

    def kept(tensors: Mapping[str, torch.Tensor], label: str) -> MemoryCheckpoint:
        return MemoryCheckpoint({name: tensors[name] for name in moved}, label=label)

    experts = tuple(
        Expert(expert.name, kept(tensors, expert.name), expert.task)
        for expert, tensors in zip(stored.experts, read, strict=True)
    )
    return Pool(kept(own, "base"), experts)
