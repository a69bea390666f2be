"""Parts of tasks: one vector that all share, and for each task a bit per entry and one number.

``taskloom.merge_parts`` writes a folder that stands for K checkpoints, with the base that they were
tuned from: ``shared.safetensors``, one file of bit-packed masks per task, and ``parts.json``. The model
of a task is ``base + scale * mask * shared``; see `taskloom.merging.restore` for the way back.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskloom import __version__, registry
from taskloom.algebra import Chain, Stack
from taskloom.errors import PlanError, nearest
from taskloom.lazy import torch
from taskloom.merging.api import Experts, _dtype, _pool
from taskloom.merging.engine import Engine, Options, default_threads
from taskloom.merging.executor import tensor_statistics
from taskloom.merging.methods import emr, tall_masks
from taskloom.merging.plain import apply_steps, finish, load
from taskloom.merging.plan import MergePlan, plan_program
from taskloom.merging.program import Output, program_of
from taskloom.merging.slices import pieces
from taskloom.progress import Progress, silent
from taskloom.store.atomic import atomic_directory, write_json
from taskloom.store.checkpoint import TensorInfo
from taskloom.store.digest import tensor_bytes
from taskloom.store.open import Source
from taskloom.store.writer import SafetensorsWriter

FILE = "parts.json"
SHARED = "shared.safetensors"
FORMAT = 1
#: method -> the chain that ends with the shared vector and every task's factors
MAKERS: dict[str, Callable[..., Chain]] = {"emr": emr.parts, "tall_masks": tall_masks.parts}


@dataclass(frozen=True)
class PartsReport:
    """What was written, and what it stands for.

    Attributes
    ----------
    path
        The folder.
    method, options, composition
        How the parts came about.
    scales
        Number of every task, in the order of the experts.
    bytes_shared, bytes_masks
        Of the shared vector, and of the masks of all tasks: files as they are on disk.
    bytes_base
        Of the base's tensors, which are needed too and are not copied.
    bytes_full
        Of K checkpoints of the base's size.
    reads
        How often every tensor was read.
    """

    path: Path
    method: str
    options: dict[str, Any]
    composition: str
    scales: dict[str, float]
    bytes_shared: int
    bytes_masks: int
    bytes_base: int
    bytes_full: int
    reads: int
    seconds: float

    @property
    def bytes_stored(self) -> int:
        """Of the folder's tensors and the base together."""
        return self.bytes_base + self.bytes_shared + self.bytes_masks

    @property
    def share(self) -> float:
        """``bytes_stored`` over ``bytes_full``."""
        return self.bytes_stored / self.bytes_full if self.bytes_full else 0.0


def merge_parts(
    base: Source,
    experts: Experts,
    method: str,
    output: str | Path,
    *,
    names: Sequence[str] | None = None,
    dtype: torch.dtype | str | None = None,
    overwrite: bool = False,
    allow_pickle: bool = False,
    threads: int | None = None,
    slice_bytes: int | None = None,
    progress: Progress = silent,
    **options: Any,
) -> PartsReport:
    """Merge into parts from which the model of every task can be made again.

    Parameters
    ----------
    base, experts, names, allow_pickle, progress
        As ``taskloom.merge``; the base is needed.
    method
        ``"emr"`` or ``"tall_masks"``.
    output
        Folder to make; it appears whole or not at all.
    dtype
        Of the shared vector; the base's if None. With float32 the restored model has the bytes that
        ``taskloom.merge(..., method, task=...)`` gives; a narrower one rounds the shared vector.
    overwrite
        Replace an existing folder.
    threads, slice_bytes
        As ``taskloom.merge_files``; they change no byte.
    **options
        Of the method, without ``task``.

    Raises
    ------
    UnknownName, PlanError
        The method or an option does not exist, the method keeps no parts, or there is no base.
    CheckpointError, NumericalError, OutputError
        As ``taskloom.merge_files``.
    """
    begun = time.perf_counter()
    chain, said = parts_chain(method, options)
    pool = _pool(base, experts, names, allow_pickle)
    plan = plan_program(program_of(pool, chain, _dtype(dtype)), slice_bytes=slice_bytes)
    if pool.base is None:
        raise PlanError("parts are kept beside the base, and there is none", hint="Give the base")
    with atomic_directory(output, overwrite=overwrite) as folder:
        files = {name: f"task-{number:05d}.safetensors" for number, name in enumerate(pool.names)}
        run = Options(threads=threads or default_threads(), progress=progress)
        scales = _write(folder, plan, run, files)
        sizes = {file: (folder / file).stat().st_size for file in (SHARED, *files.values())}
        whole = sum(info.nbytes for info in pool.tensors.values())
        write_json(
            folder / FILE,
            {
                "format": FORMAT,
                "method": method,
                "options": said,
                "composition": str(chain),
                "version": __version__,
                "base": {"label": pool.base.label, "digest": pool.base.digest(), "bytes": whole},
                "shared": SHARED,
                "tasks": {
                    name: {"file": file, "scale": scales[name], "bytes": sizes[file]}
                    for name, file in files.items()
                },
                "bytes": {"shared": sizes[SHARED], "full": whole * len(pool)},
            },
        )
    return PartsReport(
        path=Path(output),
        method=method,
        options=said,
        composition=str(chain),
        scales=scales,
        bytes_shared=sizes[SHARED],
        bytes_masks=sum(sizes[file] for file in files.values()),
        bytes_base=whole,
        bytes_full=whole * len(pool),
        reads=plan.reads,
        seconds=time.perf_counter() - begun,
    )


def parts_chain(method: str, options: Mapping[str, Any]) -> tuple[Chain, dict[str, Any]]:
    """Return the chain that makes a method's parts, and the options as JSON-ready data.

    Raises
    ------
    UnknownName, PlanError
        There is no such method, it keeps no parts, or an option is wrong.
    """
    entry = registry.get("merge", method)
    if method not in MAKERS:
        guess = nearest(method, MAKERS)
        did = f"did you mean {guess!r}? " if guess else ""
        raise PlanError(
            f"{method} keeps no parts of tasks: {did}Methods that do: {', '.join(sorted(MAKERS))}"
        )
    if options.get("task") is not None:
        raise PlanError(
            f"{method}: parts are kept of every task, so the option 'task' has no place here",
            hint="Leave it out, and name the task when its model is restored",
        )
    given = {name: value for name, value in entry.validate(options).items() if name != "task"}
    try:
        chain = MAKERS[method](**given)
    except ValueError as error:
        raise PlanError(f"{method}: {error}") from None
    plain = {name: dict(v) if isinstance(v, Mapping) else v for name, v in given.items()}
    return chain, plain


def _write(folder: Path, plan: MergePlan, run: Options, files: Mapping[str, str]) -> dict[str, float]:
    """Write the shared vector and all masks; return the number of every task."""
    outputs = [output for output in plan.program.outputs if output.chain is not None]
    shared = {output.name: output.info for output in outputs}
    packed = {name: TensorInfo((-(-info.numel // 8),), "uint8") for name, info in shared.items()}
    with ExitStack() as stack:
        writer = stack.enter_context(SafetensorsWriter(folder / SHARED, shared, {"format": "pt"}))
        masks = [
            stack.enter_context(SafetensorsWriter(folder / file, packed, {"format": "pt"}))
            for file in files.values()
        ]
        scales = _Scales(tuple(files))
        with Engine(plan, run) as engine:
            statistics = {
                id(chain): engine.statistics(chain, group)
                for chain, group in plan.program.groups
                if chain is not None
            }

        def one(output: Output) -> None:
            _write_one(plan, output, statistics[id(output.chain)], writer, masks, scales)

        ordered = sorted(outputs, key=lambda output: -output.info.numel)
        with ThreadPoolExecutor(run.threads) as threads:
            for number, _ in enumerate(threads.map(one, ordered), start=1):
                run.progress("parts", number, len(ordered))
        with Engine(plan, run) as engine:
            engine.check_inputs()
        for each in (writer, *masks):
            each.sync()
    return scales.numbers


@dataclass
class _Scales:
    """The one number by which each task multiplies what its mask marks; 0 where it marks nothing."""

    names: tuple[str, ...]
    numbers: dict[str, float] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.numbers = dict.fromkeys(self.names, 0.0)

    def see(self, name: str, factors: NDArray[Any]) -> None:
        """Take note of a slice's factors.

        Raises
        ------
        PlanError
            A task has more than one factor that is not 0.
        """
        marked = factors[factors != 0]
        if not marked.size:
            return
        first = float(marked[0])
        with self._lock:
            known = self.numbers[name] = self.numbers[name] or first
        if known != first or bool((marked != marked[0]).any()):
            raise PlanError(
                f"the task {name!r} has more than one factor, which no bit per entry can hold",
                hint="Parts are a mask and one number per task",
            )


def _write_one(
    plan: MergePlan,
    output: Output,
    known: Mapping[int, Any],
    writer: SafetensorsWriter,
    masks: Sequence[SafetensorsWriter],
    scales: _Scales,
) -> None:
    """Write one tensor slice by slice."""
    how = plan.cutting(output)
    with torch.inference_mode():
        known = dict(known) | tensor_statistics(output, how, check=True)
        packers = [_Packer(mask, output.name) for mask in masks]
        for piece in pieces(output.info, how):
            _, stack = load(output, piece, check=True)
            stack = apply_steps(output, stack, known)
            shared = finish(None, _row(stack), output.info.dtype)
            writer.write_slice(output.name, piece.start * output.info.itemsize, tensor_bytes(shared))
            factors = stack.values[1:].reshape(len(masks), -1).numpy()
            for name, packer, row in zip(output.names, packers, factors, strict=True):
                scales.see(name, row)
                packer.add(row != 0)
        for packer in packers:
            packer.end()
    writer.finished(output.name)


def _row(stack: Stack) -> Stack:
    if len(stack.values) != 1 + len(stack.experts):
        raise PlanError(
            f"parts are a shared vector and a mask for each of {len(stack.experts)} experts, but the "
            f"chain ends with {len(stack.values)} rows",
            hint="End it with tall_masks or elect_largest",
        )
    return stack.with_values(stack.values[:1])


class _Packer:
    """Bits of one tensor as they come, packed eight to a byte, the first in the highest place."""

    def __init__(self, writer: SafetensorsWriter, name: str) -> None:
        self._writer, self._name, self._offset = writer, name, 0
        self._left: NDArray[np.bool_] = np.zeros(0, dtype=np.bool_)

    def add(self, bits: NDArray[np.bool_]) -> None:
        """Take the next bits; write those that fill bytes."""
        bits = np.concatenate([self._left, bits]) if self._left.size else bits
        whole = len(bits) // 8 * 8
        self._put(np.packbits(bits[:whole]))
        self._left = bits[whole:]

    def end(self) -> None:
        """Write what is left, filled up with zeros."""
        self._put(np.packbits(self._left))
        self._writer.finished(self._name)

    def _put(self, packed: NDArray[np.uint8]) -> None:
        if packed.size:
            self._writer.write_slice(self._name, self._offset, packed.data)
            self._offset += packed.size
