"""From a plan to a directory: shards with a journal beside them, resumed where they were left.

Everything is made in ``OUT.partial``: the model's files in ``OUT.partial/model``, and ``journal.json``,
which says what is being made of what and which shards are whole. A finished model folder is renamed to
``OUT``. Whatever stops the process, ``OUT`` is never half a model, and the same call continues with the
first shard that is not whole. A journal of other inputs or another recipe is refused.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from taskloom import __version__
from taskloom.errors import OutputError
from taskloom.merging.crew import MODEL, Alone, Crew, CrewLost
from taskloom.merging.engine import Digests, Engine, Options
from taskloom.merging.plan import MergePlan, files_of
from taskloom.merging.program import Program
from taskloom.store.atomic import (
    as_output_error,
    final_path,
    put_in_place,
    refuse_existing,
    sync_tree,
    write_json,
)
from taskloom.store.cache import canonical_digest, file_mark
from taskloom.store.checkpoint import Checkpoint
from taskloom.store.digest import combine_digests
from taskloom.store.safetensors_dir import INDEX
from taskloom.store.template import copy_template
from taskloom.store.writer import plan_shards

JOURNAL = "journal.json"
_LOCK = "lock"
_FORMAT = 1


@dataclass(frozen=True)
class Built:
    """What was made.

    Attributes
    ----------
    path
        The directory.
    tensors
        SHA-256 of every output tensor; empty if not wanted.
    statistics
        What was measured of whole models, encoded: group -> step -> value.
    resumed
        Shards that an earlier run had finished.
    """

    path: Path
    tensors: dict[str, str]
    statistics: dict[str, dict[str, Any]]
    resumed: int


def partial_of(target: str | os.PathLike[str]) -> Path:
    """Return the folder in which a target is made."""
    final = final_path(target)
    return final.with_name(f"{final.name}.partial")


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
    found = [[file, *file_mark(file)[:3]] for file in files] or checkpoint.digest()
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
    """Run a plan into a directory that ``from_pretrained`` loads, whole or not at all.

    Parameters
    ----------
    plan
        What to do.
    target
        The directory to make.
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
        Called with the folder of the model after the template is copied, to add files.
    finish
        Called with the folder and the result at the very end, to write what depends on it.
    crew
        Who does the work; this process if None. It changes no byte.

    Raises
    ------
    OutputError
        The target exists or cannot be written, the disk is full, another run writes it, or an
        interrupted merge of other inputs or another recipe is in its place.
    NumericalError, CheckpointError, PlanError
        As the engine; nothing is left behind then.
    KeyboardInterrupt
        The user stopped it; finished shards are kept, and the message says how to go on.
    """
    final = final_path(target)
    work = partial_of(target)
    refuse_existing(final, overwrite=overwrite)
    _refuse_inputs(plan.program, final)
    with as_output_error(final), _locked(work, final):
        key = fingerprint(plan.program, record, options)
        shards = plan_shards(plan.program.infos, max_shard_bytes)
        journal = _Journal.open(work, canonical_digest([key, shards]), discard=discard)
        try:
            with Engine(plan, options) as engine:
                _keep_shards(work / MODEL, journal.shards)
                crew = crew or Alone()
                crew.begin(engine, work, key)
                built = _write(engine, crew, final, work / MODEL, shards, journal)
                if template is not None:
                    copy_template(template, work / MODEL, plan.program.infos)
                if extra is not None:
                    extra(work / MODEL)
                engine.check_inputs()
            if finish is not None:
                finish(work / MODEL, built)
            sync_tree(work / MODEL)
            put_in_place(work / MODEL, final, overwrite=overwrite)
        except KeyboardInterrupt:
            done = len(journal.shards)
            if not done:
                shutil.rmtree(work, ignore_errors=True)
                raise
            raise KeyboardInterrupt(
                f"interrupted; {done} of {len(shards)} shards are kept in {work}: "
                "the same command continues with the next"
            ) from None
        except CrewLost:
            raise
        except BaseException:
            shutil.rmtree(work, ignore_errors=True)
            raise
        shutil.rmtree(work, ignore_errors=True)
    return built


def _refuse_inputs(program: Program, final: Path) -> None:
    """Refuse to replace, and so to delete, a directory that an input is in."""
    for checkpoint in program.checkpoints:
        for file, _ in files_of(checkpoint):
            if Path(file).resolve().is_relative_to(final):
                raise OutputError(
                    f"{final} holds the input {file} and would be deleted by overwriting it",
                    hint="Name another output",
                )


def _write(
    engine: Engine,
    crew: Crew,
    final: Path,
    folder: Path,
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
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": where})
    return Built(
        path=final,
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
    """What is being made, and which shards of it are whole and on disk."""

    def __init__(self, path: Path, table: dict[str, Any]) -> None:
        self._path, self._table = path, table

    @classmethod
    def open(cls, work: Path, key: str, *, discard: bool) -> _Journal:
        """Start a journal, or go on with the one that is there."""
        path = work / JOURNAL
        fresh = {"key": key, "statistics": {}, "shards": {}}
        if not path.exists():
            left = [each for each in work.iterdir() if each.name != _LOCK]
            if left and not discard:
                raise OutputError(
                    f"{work} exists and is not an interrupted merge (it has {left[0].name!r})",
                    hint="Remove it, or name another output",
                )
            _clear(work)
            write_json(path, fresh)
            return cls(path, fresh)
        try:
            table = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            table = {}
        if table.get("key") != key:
            if not discard:
                raise OutputError(
                    f"{work} holds an interrupted merge of other inputs, another recipe or another "
                    "version, which cannot be continued as this one",
                    hint="Restore the inputs and the recipe, discard it (--discard), or name "
                    "another output",
                )
            _clear(work)
            write_json(path, fresh)
            return cls(path, fresh)
        return cls(path, table)

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
            write_json(self._path, self._table)

    def add(self, shard: str, digests: Digests) -> None:
        """Take note that a shard is whole, with all digests known so far."""
        self._table["shards"][shard] = True
        self._table["outputs"] = digests.outputs | self._table.get("outputs", {})
        write_json(self._path, self._table)

    @property
    def digests(self) -> Digests:
        """The digests of all whole shards."""
        return Digests(dict(self._table.get("outputs", {})))


def _keep_shards(folder: Path, shards: Mapping[str, Any]) -> None:
    """Remove what an earlier run left beside its whole shards: it is all made again."""
    folder.mkdir(exist_ok=True)
    for each in folder.iterdir():
        if each.name in shards:
            continue
        if each.is_dir() and not each.is_symlink():
            shutil.rmtree(each)
        else:
            each.unlink()


def _clear(work: Path) -> None:
    for each in work.iterdir():
        if each.name == _LOCK:
            continue
        if each.is_dir() and not each.is_symlink():
            shutil.rmtree(each)
        else:
            each.unlink()


@contextlib.contextmanager
def _locked(work: Path, final: Path) -> Iterator[None]:
    """Hold the working folder against a second run into the same output."""
    import fcntl

    try:
        work.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(work / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise OutputError(
            f"{final}: the folder cannot be made: {error.strerror or error}",
            hint="Choose an output in a folder you may write to",
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise OutputError(
                f"{final} is being written by another run (it holds {work / _LOCK})",
                hint="Wait for it, or name another output",
            ) from error
        if not os.path.exists(work / _LOCK):
            raise OutputError(
                f"{final} was being written by another run until now",
                hint="Look at what it made, or name another output",
            )
        yield
    finally:
        os.close(descriptor)


def checkpoint_digest(checkpoint: Checkpoint, tensors: Mapping[str, str]) -> str:
    """Return one digest for tensors of a checkpoint; of all of them, it is the checkpoint's own."""
    infos = checkpoint.tensors
    return combine_digests((name, infos[name], digest) for name, digest in tensors.items())
