"""Who does the work of a build: this process, or others that get a description of the job.

A build asks its crew for two things: what is measured of whole models, and shards. `Alone` gives both
by the engine. Crews of other processes send a `Job` round and ask for parts of it: `measure` sees some
tensors in one round of one step, and such accumulators are joined, which is exact (they are counts);
`write_part` makes one shard, which its `Landing` takes whole or not at all, whoever dies, and however
often it is tried.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, Protocol

from taskloom import __version__
from taskloom.errors import CheckpointError, OutputError, PlanError, TaskloomError
from taskloom.merging.engine import Digests, Engine, Options, Statistics
from taskloom.merging.plan import MergePlan
from taskloom.merging.program import Output
from taskloom.merging.target import Landing
from taskloom.progress import silent
from taskloom.store.checkpoint import TensorInfo
from taskloom.store.writer import METADATA, SafetensorsWriter


class Crew(Protocol):
    """Measures groups and writes shards."""

    def begin(self, engine: Engine, landing: Landing, key: str) -> None:
        """Get ready.

        Parameters
        ----------
        engine
            Of this process: plan, options, progress.
        landing
            Where shards go.
        key
            Tells this build from others.
        """
        ...

    def statistics(self, group: int) -> Statistics:
        """Return what is measured of a group of the program, by number, over all its tensors."""
        ...

    def shards(
        self, todo: Mapping[str, Sequence[str]], statistics: Mapping[int, Statistics]
    ) -> Iterator[tuple[str, Digests]]:
        """Make shards (file -> tensors), and yield each when it is whole where it is kept.

        Parameters
        ----------
        todo
            What to make.
        statistics
            By number of the group.
        """
        ...


class CrewLost(OutputError):
    """The crew is gone; what it finished is kept, and the same command continues."""


class Alone:
    """The process that was started, by itself."""

    def begin(self, engine: Engine, landing: Landing, key: str) -> None:
        """Keep the engine."""
        self._engine, self._landing = engine, landing

    def statistics(self, group: int) -> Statistics:
        """Measure by the engine's threads."""
        chain, outputs = self._engine.plan.program.groups[group]
        return {} if chain is None else self._engine.statistics(chain, outputs)

    def shards(
        self, todo: Mapping[str, Sequence[str]], statistics: Mapping[int, Statistics]
    ) -> Iterator[tuple[str, Digests]]:
        """Write one shard after the other."""
        for shard, names in todo.items():
            write_shard(self._engine, self._landing, shard, names, statistics)
            yield shard, self._engine.digests


@dataclass(frozen=True)
class _Sink:
    writer: SafetensorsWriter

    def write(self, name: str, offset: int, data: memoryview) -> None:
        self.writer.write_slice(name, offset, data)


def write_shard(
    engine: Engine,
    landing: Landing,
    shard: str,
    names: Sequence[str],
    statistics: Mapping[int, Statistics],
    *,
    checked: bool = False,
) -> None:
    """Make some outputs into one file, and have it landed; ``checked`` if the inputs did not change."""
    program = engine.plan.program
    outputs = {output.name: output for output in program.outputs}
    infos: dict[str, TensorInfo] = {name: outputs[name].info for name in names}
    known = {id(chain): statistics[n] for n, (chain, _) in enumerate(program.groups) if n in statistics}
    with landing.shard(shard) as path:
        with SafetensorsWriter(path, infos, METADATA) as writer:
            engine.run([outputs[name] for name in names], known, _Sink(writer))
            for name in infos:
                writer.finished(name)
            if landing.lasting:
                writer.sync()
        if checked:
            engine.check_inputs()


@dataclass(frozen=True, eq=False)
class Job:
    """All that another process needs in order to make parts of a build.

    It goes through ``cloudpickle``: chains hold functions. Checkpoints are opened files and addresses,
    never weights.
    """

    plan: MergePlan
    options: Options
    landing: Landing
    key: str
    folder: str
    versions: tuple[str, ...]


def describe(engine: Engine, landing: Landing, key: str, *, threads: int) -> Job:
    """Return the job of a build.

    Raises
    ------
    PlanError
        Weights in memory, which other processes cannot read.
    """
    from taskloom.store.memory import MemoryCheckpoint

    checkpoints = engine.plan.program.checkpoints
    for checkpoint in checkpoints:
        below = getattr(checkpoint, "base", checkpoint)
        if isinstance(checkpoint, MemoryCheckpoint) or isinstance(below, MemoryCheckpoint):
            raise PlanError(
                f"{checkpoint.label}: the weights are in memory, where other processes cannot read them",
                hint="Save them as safetensors, or merge without other processes",
            )
    options = replace(engine.options, threads=threads, workers=1, progress=silent)
    return Job(engine.plan, options, landing, key, os.getcwd(), _versions())


def _versions() -> tuple[str, ...]:
    return (__version__, platform.machine())


def join_in(job: Job) -> None:
    """Check, in another process, that the job can be done there.

    Raises
    ------
    OutputError
        The working folder is not to be seen from there.
    PlanError
        Another version of taskloom, or another kind of processor.
    """
    here = platform.node()
    if job.versions != _versions():
        raise PlanError(
            f"machine {here!r} has taskloom {' on '.join(_versions())}, and the merge was begun by "
            f"{' on '.join(job.versions)}",
            hint="Install the same version on every machine",
        )
    job.landing.join()
    if os.path.isdir(job.folder):
        os.chdir(job.folder)  # what paths are relative to


def measure(
    job: Job,
    group: int,
    names: Sequence[str],
    index: int,
    round_: int,
    started: Any,
    known: Statistics,
) -> Any:
    """Show some tensors of a group to one round of a step's measure; return the accumulator."""
    chain, outputs = job.plan.program.groups[group]
    if chain is None:
        raise ValueError("what is copied has no measure")
    wanted = set(names)
    with Engine(job.plan, job.options) as engine:
        chosen = [output for output in outputs if output.name in wanted]
        return engine.round(chosen, index, chain.steps[index], round_, started, known)


def write_part(
    job: Job, shard: str, names: Sequence[str], statistics: Mapping[int, Statistics]
) -> Digests:
    """Make one shard of inputs that have not changed, and have it landed."""
    with Engine(job.plan, job.options) as engine:
        write_shard(engine, job.landing, shard, names, statistics, checked=True)
        return engine.digests


@dataclass(frozen=True)
class Fault:
    """An error of another process."""

    kind: type[TaskloomError]
    message: str

    def error(self) -> TaskloomError:
        """Return it as it was raised there."""
        error = self.kind.__new__(self.kind)
        Exception.__init__(error, self.message)
        error.hint = ""
        return error


def attempt(function: Callable[..., Any], job: Job, *arguments: Any) -> Any:
    """Do a part of a job in another process; errors of the input come back as a `Fault`."""
    try:
        join_in(job)
        return function(job, *arguments)
    except TaskloomError as error:
        return Fault(type(error), str(error))


#: does one thing for each set of arguments, in any order, and yields (number of the set, result)
Spread = Callable[[Callable[..., Any], Sequence[tuple[Any, ...]]], Iterator[tuple[int, Any]]]


def measured(engine: Engine, group: int, spread: Spread, bins: int) -> Statistics:
    """Measure a group by others: every round is spread over bins of tensors, and joined.

    A measure without ``join`` sees all tensors in one bin, in order.
    """
    chain, outputs = engine.plan.program.groups[group]
    known: Statistics = {}
    for index, step in enumerate(() if chain is None else chain.steps):
        if step.measure is None:
            continue
        parts = binned(outputs, bins if step.measure.join is not None else 1)
        accumulated: Any = None
        for round_ in range(step.measure.rounds):
            started = step.measure.start(round_, accumulated)
            tasks = [(group, names, index, round_, started, known) for names in parts]
            found = dict(spread(measure, tasks))
            ordered = [found[number] for number in range(len(tasks))]
            accumulated = ordered[0] if step.measure.join is None else reduce(step.measure.join, ordered)
        known[index] = step.measure.done(accumulated)
    return known


def binned(outputs: Sequence[Output], bins: int) -> list[list[str]]:
    """Spread tensors over at most that many bins of about equal bytes.

    Raises
    ------
    CheckpointError
        There are no tensors.
    """
    if not outputs:
        raise CheckpointError("there are no tensors to spread", hint="Check the model")
    held = [0] * max(1, min(bins, len(outputs)))
    names: list[list[str]] = [[] for _ in held]
    order = sorted(outputs, key=lambda o: -o.info.nbytes) if len(held) > 1 else outputs
    for output in order:
        smallest = held.index(min(held))
        held[smallest] += max(1, output.info.nbytes)
        names[smallest].append(output.name)
    return names
