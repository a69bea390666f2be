"""From a plan to a model: shards with a journal beside them, resumed where they were left.

Everything is made in ``OUT.partial``: the shards, and ``journal.json``, which says what is being made of
what and which shards are whole. `taskloom.merging.target` says how a finished model gets its place, in a
directory or in an object store. Whatever stops the process, ``OUT`` is never half a model, and the same
call continues with the first shard that is not whole. A journal of other inputs or another recipe is
refused.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from taskloom import __version__
from taskloom.errors import OutputError
from taskloom.merging.crew import Alone, Crew, CrewLost
from taskloom.merging.engine import Digests, Engine, Options
from taskloom.merging.plan import MergePlan, files_of
from taskloom.merging.program import Program
from taskloom.merging.target import PLACED, PLACING, Target, target_of
from taskloom.store.atomic import write_json
from taskloom.store.cache import canonical_digest, file_mark
from taskloom.store.checkpoint import Checkpoint
from taskloom.store.objects import StoreLost
from taskloom.store.safetensors_dir import INDEX
from taskloom.store.template import copy_template
from taskloom.store.writer import plan_shards, shard_header

_FORMAT = 1


@dataclass(frozen=True)
class Built:
    """What was made.

    Attributes
    ----------
    path
        The directory, or the address in an object store.
    shards
        File -> names of its tensors.
    tensors
        SHA-256 of every output tensor; empty if not wanted.
    statistics
        What was measured of whole models, encoded: group -> step -> value.
    resumed
        Shards that an earlier run had finished.
    """

    path: Path | str
    shards: Mapping[str, Sequence[str]]
    tensors: dict[str, str]
    statistics: dict[str, dict[str, Any]]
    resumed: int


def fingerprint(program: Program, record: Mapping[str, Any], options: Options) -> str:
    """Return what must be equal for two runs to give the same bytes: recipe, tensors, input files."""
    numbers = {id(c): i for i, c in enumerate(program.checkpoints)}
    outputs = [
        [
            output.name,
            list(output.info.shape),
            output.info.kind,
            "copy" if output.chain is None else f"{output.chain.space}: {output.chain}",
            [[numbers[id(ref.checkpoint)], ref.name] for ref in output.sources],
            list(output.names),
        ]
        for output in program.outputs
    ]
    return canonical_digest(
        {
            "format": _FORMAT,
            "version": __version__,
            "record": dict(record),
            "outputs": outputs,
            "inputs": [_marks(c) for c in program.checkpoints],
            "nan": options.nan,
        }
    )


def _marks(checkpoint: Checkpoint) -> list[Any]:
    files = [str(file) for file, _ in files_of(checkpoint)]
    found: Any = [[file, *file_mark(file)[:3]] for file in files]
    found = found or getattr(checkpoint, "objects", None) or checkpoint.digest()
    return [checkpoint.label, found, getattr(checkpoint, "placement", None)]


def build(
    plan: MergePlan,
    target: str | os.PathLike[str],
    *,
    record: Mapping[str, Any],
    options: Options,
    template: Path | None = None,
    overwrite: bool = False,
    discard: bool = False,
    max_shard_bytes: int = 5_000_000_000,
    extra: Callable[[Path], None] | None = None,
    finish: Callable[[Path, Built], None] | None = None,
    crew: Crew | None = None,
) -> Built:
    """Run a plan into a model that ``from_pretrained`` loads, whole or not at all.

    Parameters
    ----------
    plan
        What to do.
    target
        The directory to make, or the address of a folder in an object store.
    record
        Recipe and options as JSON-ready data: what tells this merge from another.
    options
        Threads and the like.
    template
        Directory whose configuration and tokenizer are copied.
    overwrite
        Replace an existing target; it survives until the new one is whole.
    discard
        Throw away what an earlier, interrupted merge left, whatever it was.
    max_shard_bytes
        Above this many bytes of tensors the weights are split into shards.
    extra
        Called with a folder that has the template's files, to add files.
    finish
        Called with that folder and the result at the very end, to write what depends on it.
    crew
        Who does the work; this process if None. It changes no byte.

    Raises
    ------
    OutputError
        The target exists or cannot be written, the disk is full, another run writes it, or an
        interrupted merge of other inputs or another recipe is in its place.
    NumericalError, CheckpointError, PlanError
        As the engine; nothing is left behind then.
    CrewLost, StoreLost
        Other machines, or the store, failed; finished shards are kept.
    KeyboardInterrupt
        The user stopped it; finished shards are kept, and the message says how to go on.
    """
    place = target_of(target)
    place.check(plan.program, overwrite=overwrite)
    with place.held():
        key = fingerprint(plan.program, record, options)
        shards = plan_shards(plan.program.infos, max_shard_bytes)
        journal = _Journal.open(place, canonical_digest([key, shards]), discard=discard)
        try:
            if discard:  # what was thrown away may have been about to take the place
                place.check(plan.program, overwrite=overwrite)
            with Engine(plan, options) as engine:
                sizes = _sizes(plan.program, shards)
                journal.forget(set(shards) - place.keep({n: sizes[n] for n in journal.shards}))
                crew = crew or Alone()
                crew.begin(engine, place.landing, key)
                built = _write(engine, crew, place, shards, journal)
                if template is not None:
                    copy_template(template, place.folder, plan.program.infos)
                if extra is not None:
                    extra(place.folder)
                engine.check_inputs()
            if finish is not None:
                finish(place.folder, built)
            place.place(sizes, overwrite=overwrite or journal.phase == PLACING, note=journal.note)
        except KeyboardInterrupt:
            done = len(journal.shards)
            if not done:
                place.drop()
                raise
            raise KeyboardInterrupt(
                f"interrupted; {done} of {len(shards)} shards are kept in {place.kept}: "
                "the same command continues with the next"
            ) from None
        except (CrewLost, StoreLost):
            raise
        except BaseException:
            place.drop()
            raise
        place.drop()
    return built


def _sizes(program: Program, shards: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Return the bytes of every shard."""
    infos = program.infos
    return {shard: shard_header({n: infos[n] for n in names})[1] for shard, names in shards.items()}


def _write(
    engine: Engine,
    crew: Crew,
    place: Target,
    shards: Mapping[str, Sequence[str]],
    journal: _Journal,
) -> Built:
    program = engine.plan.program
    resumed = len(journal.shards)
    statistics = _statistics(engine, crew, journal)
    todo = {shard: names for shard, names in shards.items() if shard not in journal.shards}
    for shard, digests in crew.shards(todo, statistics):
        engine.digests.update(digests)
        journal.add(shard, engine.digests)
    engine.digests.update(journal.digests)
    if len(shards) > 1:
        total = sum(output.info.nbytes for output in program.outputs)
        where = {name: shard for shard, names in shards.items() for name in names}
        write_json(place.folder / INDEX, {"metadata": {"total_size": total}, "weight_map": where})
    return Built(
        path=place.path,
        shards=shards,
        tensors=dict(engine.digests.outputs),
        statistics=journal.statistics,
        resumed=resumed,
    )


def _statistics(engine: Engine, crew: Crew, journal: _Journal) -> dict[int, dict[int, Any]]:
    """Measure every group, or take what an earlier run measured; by number of the group."""
    found: dict[int, dict[int, Any]] = {}
    for number, (chain, _) in enumerate(engine.plan.program.groups):
        if chain is None or chain.reads == 1:
            continue
        known = decode(journal.statistics.get(str(number)))
        if known is None:
            known = crew.statistics(number)
            journal.measured(number, encode(known))
        found[number] = known
    return found


def encode(statistics: Mapping[int, Any]) -> dict[str, Any] | None:
    """Return statistics as JSON-ready data; None if one of them cannot be."""
    found: dict[str, Any] = {}
    for index, value in statistics.items():
        if isinstance(value, np.ndarray):
            found[str(index)] = {"dtype": str(value.dtype), "values": value.tolist()}
        elif isinstance(value, float):
            found[str(index)] = value
        else:
            return None
    return found


def decode(encoded: Mapping[str, Any] | None) -> dict[int, Any] | None:
    """Return what `encode` was given.

    >>> decode(encode({2: np.array([1, 2], np.int32)}))
    {2: array([1, 2], dtype=int32)}
    """
    if encoded is None:
        return None
    return {
        int(index): np.array(value["values"], value["dtype"]) if isinstance(value, dict) else value
        for index, value in encoded.items()
    }


class _Journal:
    """What is being made, and which shards of it are whole where they are kept."""

    def __init__(self, place: Target, table: dict[str, Any]) -> None:
        self._place, self._table = place, table

    @classmethod
    def open(cls, place: Target, key: str, *, discard: bool) -> _Journal:
        """Start a journal, or go on with the one that is there."""
        text = place.read()
        left = place.left() if text is None else []
        if left and not discard:
            raise OutputError(
                f"{place.kept} exists and is not an interrupted merge (it has {left[0]!r})",
                hint="Remove it, or name another output",
            )
        table: dict[str, Any] = {}
        with contextlib.suppress(ValueError):
            table = dict(json.loads(text or "{}"))
        over = text is None or table.get("phase") == PLACED
        if not over and table.get("key") != key and not discard:
            raise OutputError(
                f"{place.kept} holds an interrupted merge of other inputs, another recipe or another "
                "version, which cannot be continued as this one",
                hint="Restore the inputs and the recipe, discard it (--discard), or name another output",
            )
        if over or table.get("key") != key:
            place.clear()
            table = {"key": key, "statistics": {}, "shards": {}}
            place.write(table)
        return cls(place, table)

    @property
    def shards(self) -> dict[str, dict[str, str]]:
        """Whole shards -> digests of their tensors."""
        found: dict[str, dict[str, str]] = self._table["shards"]
        return found

    @property
    def statistics(self) -> dict[str, dict[str, Any]]:
        """What was measured: group -> step -> value."""
        found: dict[str, dict[str, Any]] = self._table["statistics"]
        return found

    def measured(self, group: int, statistics: dict[str, Any] | None) -> None:
        """Keep what was measured, if it can be written down."""
        if statistics is not None:
            self._table["statistics"][str(group)] = statistics
            self._place.write(self._table)

    def add(self, shard: str, digests: Digests) -> None:
        """Take note that a shard is whole, with all digests known so far."""
        self._table["shards"][shard] = True
        self._table["outputs"] = digests.outputs | self._table.get("outputs", {})
        self._place.write(self._table)

    def forget(self, shards: set[str]) -> None:
        """Take note that shards are gone."""
        for shard in shards & set(self.shards):
            del self.shards[shard]

    def note(self, phase: str) -> None:
        """Write down what has begun."""
        self._table["phase"] = phase
        self._place.write(self._table)

    @property
    def phase(self) -> str | None:
        """The last word that was noted."""
        found: str | None = self._table.get("phase")
        return found

    @property
    def digests(self) -> Digests:
        """The digests of all whole shards."""
        return Digests(dict(self._table.get("outputs", {})))
