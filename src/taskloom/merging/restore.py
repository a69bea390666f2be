"""From the parts of tasks back to the model of one.

Of masks: ``base + scale * mask * shared``. Of exclusive parts: the shared model and the task's own;
where the base itself is what is shared, as of a graft, it is given and not in the folder.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from taskloom.errors import CheckpointError, IntegrityError, PlanError, nearest
from taskloom.lazy import Tensor, torch
from taskloom.merging.api import MergeReport, write_merged
from taskloom.merging.by_range import digest_of, range_of, read_rows
from taskloom.merging.engine import Options, default_threads
from taskloom.merging.exclusive_task import ExclusiveTask
from taskloom.merging.parts import EXCLUSIVE_FORMAT, FILE, FORMAT
from taskloom.merging.plan import plan_program
from taskloom.merging.program import Output, Program, Ref
from taskloom.progress import Progress, silent
from taskloom.store.checkpoint import Checkpoint, TensorInfo
from taskloom.store.open import Source, open_checkpoint
from taskloom.store.safetensors_dir import SafetensorsCheckpoint
from taskloom.store.sparse import marks_between


class TaskCheckpoint:
    """The model of one task, made lazily from its mask; a source like any other.

    Parameters
    ----------
    parts
        Folder that ``taskloom.merge_parts`` wrote.
    base
        The base that the parts were made beside, held against the recorded digest.
    task
        Name of the expert.

    Raises
    ------
    CheckpointError
        There are no parts, or their files are not what they should be.
    IntegrityError
        Another base.
    PlanError
        There is no such task.
    """

    def __init__(self, parts: str | os.PathLike[str], base: Checkpoint, task: str) -> None:
        self._folder = Path(parts)
        table = read_parts(self._folder)
        check_task(self._folder, table, task)
        if table["format"] != FORMAT:
            raise CheckpointError(
                f"{parts} holds exclusive parts, where masks were expected",
                hint="Open it with taskloom.merging.restore.open_task",
            )
        entry = table["tasks"][task]
        self._base, self._scale, self._task = base, float(entry["scale"]), task
        self._shared = SafetensorsCheckpoint(self._folder / table["shared"])
        self._masks = SafetensorsCheckpoint(self._folder / entry["file"])
        self._check()
        check_base(self._folder, table, base)

    def _check(self) -> None:
        for name, info in self._shared.tensors.items():
            bits = self._masks.tensors.get(name)
            known = self._base.tensors.get(name)
            if known is None or known.shape != info.shape:
                found = "none" if known is None else str(list(known.shape))
                raise CheckpointError(
                    f"{self._folder}: tensor {name!r}: expected shape {list(info.shape)}, found {found} "
                    f"in the base {self._base.label}",
                    hint="Give the base that the experts were tuned from",
                )
            if bits is None or bits != TensorInfo((-(-info.numel // 8),), "uint8"):
                raise CheckpointError(
                    f"{self._folder}: the mask of tensor {name!r} has not a bit for each of its "
                    f"{info.numel} entries",
                    hint="Write the parts again",
                )

    @property
    def label(self) -> str:
        """Folder and task."""
        return f"{self._folder}#{self._task}"

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """The base's."""
        return self._base.tensors

    @property
    def path(self) -> Path | None:
        """The base's folder, whose configuration and tokenizer fit."""
        found: Path | None = getattr(self._base, "path", None)
        return found

    @property
    def files(self) -> tuple[Path, ...]:
        """What is read: of the base, the shared vector and the masks."""
        base: tuple[Path, ...] = getattr(self._base, "files", ())
        return (*base, *self._shared.files, *self._masks.files)

    def read(self, name: str, rows: slice | None = None) -> Tensor:
        """Return a tensor, or rows of it, in the base's dtype."""
        if name not in self._shared.tensors:
            return self._base.read(name, rows)
        return read_rows(name, self.tensors[name], rows, self.read_range)

    def read_range(self, name: str, start: int, stop: int) -> Tensor:
        """Return elements ``start`` to ``stop`` of the flattened tensor."""
        base = range_of(self._base, name, start, stop)
        if name not in self._shared.tensors:
            return base
        wide = torch.promote_types(base.dtype, torch.float32)
        shared = self._shared.read_range(name, start, stop).to(wide)
        marks = marks_between(self._masks, name, start, stop)
        factor = torch.tensor(self._scale, dtype=wide)
        change = shared * (marks.to(wide) * factor)
        return (base.to(wide) + change).to(base.dtype)

    def digest(self) -> str:
        """SHA-256 over names, shapes, dtypes and bytes of the task's model."""
        return digest_of(self)


def open_task(
    parts: str | os.PathLike[str],
    task: str,
    base: Source | None = None,
    *,
    allow_pickle: bool = False,
) -> TaskCheckpoint | ExclusiveTask:
    """Open the model of one task, whichever way its parts are kept; a source like any other.

    Parameters
    ----------
    parts
        Folder that ``taskloom.merge_parts`` wrote.
    task
        Name of the expert.
    base
        The base that the parts were made beside. Masks and grafts need it; exclusive parts do not, and
        hold it against the recorded digest if it is given.

    Raises
    ------
    CheckpointError, IntegrityError, PlanError
        As `TaskCheckpoint`; masks without their base.
    """
    folder = Path(parts)
    table = read_parts(folder)
    check_task(folder, table, task)
    origin = None if base is None else open_checkpoint(base, allow_pickle=allow_pickle)
    shared, own = table["shared"], table["tasks"][task]["file"]
    if origin is None:
        if table["format"] == FORMAT or shared is None:
            raise PlanError(
                f"{parts} holds masks, which are nothing without the base they were made beside",
                hint=f"Give the base ({table['base']['label']})",
            )
        return ExclusiveTask(folder, shared, own, task)
    if table["format"] == FORMAT:
        return TaskCheckpoint(parts, origin, task)
    check_base(folder, table, origin)
    return ExclusiveTask(folder, origin if shared is None else shared, own, task)


def check_task(folder: Path, table: Mapping[str, Any], task: str) -> None:
    """Refuse a task that a folder has no part of."""
    if task not in table["tasks"]:
        guess = nearest(task, table["tasks"])
        did = f"did you mean {guess!r}? " if guess else ""
        listed = ", ".join(table["tasks"])
        raise PlanError(f"{folder} has no task {task!r}: {did}There are: {listed}")


def check_base(folder: Path, table: Mapping[str, Any], base: Checkpoint) -> None:
    """Refuse another base than the one that parts were made beside."""
    if base.digest() != table["base"]["digest"]:
        raise IntegrityError(
            f"{folder} was made beside another base ({table['base']['label']}) than {base.label}",
            hint="Give the base that the experts were tuned from",
        )


def read_parts(folder: Path) -> dict[str, Any]:
    """Return the ``parts.json`` of a folder.

    Raises
    ------
    CheckpointError
        There is none, or it is of another format.
    """
    path = folder / FILE
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not JSON"
        raise CheckpointError(
            f"{folder} holds no parts of tasks: {FILE}: {reason}",
            hint="Give a folder that taskloom.merge_parts wrote",
        ) from None
    whole = isinstance(table, dict) and all(
        isinstance(table.get(key), kind)
        for key, kind in (("tasks", dict), ("base", dict), ("shared", str | None))
    )
    shares = (FORMAT, EXCLUSIVE_FORMAT) if whole and table.get("shared") else (EXCLUSIVE_FORMAT,)
    if not whole or "shared" not in table or table.get("format") not in shares:
        raise CheckpointError(
            f"{path}: expected parts of format {FORMAT} or {EXCLUSIVE_FORMAT}, found something else",
            hint="Write the parts again with this version",
        )
    found: dict[str, Any] = table
    return found


def restore_task(
    parts: str | os.PathLike[str],
    base: Source | None,
    task: str,
    output: str | Path,
    *,
    overwrite: bool = False,
    allow_pickle: bool = False,
    threads: int | None = None,
    slice_bytes: int | None = None,
    progress: Progress = silent,
) -> MergeReport:
    """Write the model of one task as a directory that ``from_pretrained`` loads, slice by slice.

    Parameters
    ----------
    parts
        Folder that ``taskloom.merge_parts`` wrote.
    base
        The base that the parts were made beside; None for exclusive parts that bring what is shared.
    task
        Name of the expert.
    output, overwrite, allow_pickle, threads, slice_bytes, progress
        As ``taskloom.merge_files``.

    Raises
    ------
    CheckpointError, IntegrityError, PlanError
        As `open_task`.
    OutputError
        As ``taskloom.merge_files``.
    """
    origin = None if base is None else open_checkpoint(base, allow_pickle=allow_pickle)
    checkpoint = open_task(parts, task, origin)
    table = read_parts(Path(parts))
    return write_merged(
        plan_program(program_of_task(checkpoint, task, origin), slice_bytes=slice_bytes),
        output,
        recipe={
            "method": table["method"],
            "options": {**table["options"], "task": task},
            "composition": f"{table['composition']} -> take({task})",
        },
        sources={
            "parts": str(parts),
            "base": None if origin is None else origin.label,
            "task": task,
        },
        template=checkpoint.path,
        names=(task,),
        overwrite=overwrite,
        options=Options(threads=threads or default_threads(), progress=progress),
    )


def program_of_task(checkpoint: Checkpoint, task: str, base: Checkpoint | None) -> Program:
    """Return the program that copies a task's model."""
    outputs = tuple(
        Output(name, info, None, None, (Ref(checkpoint, name),), (task,))
        for name, info in checkpoint.tensors.items()
    )
    return Program(outputs, getattr(base, "aliases", {}))
