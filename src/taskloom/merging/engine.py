"""Run a program over files: threads that read, compute and write at offsets, and share no lock.

One job is one tensor. A thread reads it slice by slice, merges each slice by the fused kernels (or by
the plain steps where they do not fit) and hands the bytes to a `Sink`. Measures of a whole model are
taken the same way first, each thread into an accumulator of its own; these are joined. Nothing depends
on which thread does what or on where tensors are cut, so the bytes are the same for any number of
threads, any number of processes and any size of slices.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from taskloom.algebra import Chain, Stack
from taskloom.algebra.core import Measure, Step, Summed
from taskloom.algebra.exact import CELLS, ExactSums
from taskloom.algebra.select import Found, Radix
from taskloom.errors import NumericalError
from taskloom.lazy import torch
from taskloom.merging import fused, once, rooms
from taskloom.merging.allocator import giving_back
from taskloom.merging.device import Lane
from taskloom.merging.executor import tensor_statistics
from taskloom.merging.plain import Nan, apply_steps, finish, load, nonfinite, read_piece, too_large
from taskloom.merging.plan import MergePlan
from taskloom.merging.processes import spread
from taskloom.merging.program import Output, Ref
from taskloom.merging.slices import Piece, pieces
from taskloom.progress import Progress, silent
from taskloom.store.cache import file_mark
from taskloom.store.digest import tensor_bytes
from taskloom.store.header import Header
from taskloom.store.ranges import changed, open_unchanged, read_into
from taskloom.store.safetensors_dir import SafetensorsCheckpoint

Statistics = dict[int, Any]
_LABEL = "merge"


class Sink(Protocol):
    """Where the bytes of outputs go. Called by many threads at once."""

    def write(self, name: str, offset: int, data: memoryview) -> None:
        """Take bytes of a tensor, from ``offset`` bytes into it."""
        ...


@dataclass
class Options:
    """How a program is run; none of it changes a byte of the result.

    Attributes
    ----------
    threads
        Per process.
    workers
        Processes.
    nan
        What NaN and infinity in an input lead to.
    digest
        Compute the SHA-256 of every output tensor while it is written.
    fused
        False runs the plain steps everywhere.
    device
        Where the steps run (`taskloom.merging.device`); ``cpu`` is this process and its kernels.
    device_path
        Run them on ``cpu`` as they would be run on another device.
    """

    threads: int = 1
    workers: int = 1
    nan: Nan = "refuse"
    digest: bool = True
    fused: bool = True
    device: str = "cpu"
    device_path: bool = False
    progress: Progress = silent

    @property
    def by_device(self) -> bool:
        """Whether slices go to a device."""
        return self.device_path or self.device != "cpu"


@dataclass
class Digests:
    """SHA-256 of the tensors of the output, by name."""

    outputs: dict[str, str] = field(default_factory=dict)

    def update(self, other: Digests) -> None:
        """Take over what another process found."""
        self.outputs.update(other.outputs)


def default_threads() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Files:
    """Open input files, each opened once and held against its header's mark.

    Raises
    ------
    CheckpointError
        A file is gone, or is not the one whose header was read.
    """

    def __init__(self) -> None:
        self._open: dict[Path, int] = {}
        self._lock = threading.Lock()

    def descriptor(self, header: Header) -> int:
        """Return the open file."""
        found = self._open.get(header.path)
        if found is None:
            with self._lock:
                found = self._open.get(header.path)
                if found is None:
                    found = open_unchanged(header)
                    self._open[header.path] = found
        return found

    def check(self, headers: Sequence[Header]) -> None:
        """Refuse files that changed since their headers were read."""
        for header in headers:
            if tuple(file_mark(header.path)[:3]) != header.mark:
                raise changed(header)

    def close(self) -> None:
        """Close all."""
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()


class _Spot(NamedTuple):
    """Where the bytes of a tensor lie: in an open file, or (no descriptor) with its checkpoint."""

    ref: Ref
    size: int
    descriptor: int | None = None
    offset: int = 0
    path: Path = Path()


class Engine:
    """One run of a plan.

    Parameters
    ----------
    plan
        What to do.
    options
        How.
    """

    def __init__(self, plan: MergePlan, options: Options) -> None:
        self.plan, self.options = plan, options
        self.files = Files()
        self.digests = Digests()
        self._local = threading.local()
        self._matrix = threading.Lock()
        self._fused = {
            output.name: options.fused
            and not options.by_device
            and fused.fits(output, finite=options.nan == "refuse")
            for output in plan.program.outputs
        }
        reads = (o.chain.reads if o.chain is not None else 1 for o in plan.program.outputs)
        self._ticks = _Ticks(options.progress, sum(reads))

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.files.close()

    def tick(self, tensors: int) -> None:
        """Tell the listener of tensors that others have made."""
        for _ in range(tensors):
            self._ticks.tick()

    def check_inputs(self) -> None:
        """Refuse input files that changed since their headers were read."""
        headers: dict[Path, Header] = {}
        for output in self.plan.program.outputs:
            for ref in output.sources:
                if isinstance(ref.checkpoint, SafetensorsCheckpoint):
                    header, _ = ref.checkpoint.locate(ref.name)
                    headers.setdefault(header.path, header)
            for checkpoint in (each for beside in output.beside for each in beside.checkpoints):
                if isinstance(checkpoint, SafetensorsCheckpoint):
                    for name in checkpoint.tensors:
                        header, _ = checkpoint.locate(name)
                        headers.setdefault(header.path, header)
        self.files.check(list(headers.values()))

    def statistics(self, chain: Chain, outputs: Sequence[Output]) -> Statistics:
        """Run every barrier step's rounds over a group; return the statistics by index of step."""
        known: Statistics = {}
        for index, step in enumerate(chain.steps):
            if step.measure is None:
                continue
            known[index] = step.measure.done(self._measured(step.measure, outputs, index, step, known))
        return known

    def _measured(
        self, measure: Measure, outputs: Sequence[Output], index: int, step: Step, known: Statistics
    ) -> Any:
        """Run the rounds of a measure; two that find order statistics in one read where that works."""
        accumulated, round_ = None, 0
        while round_ < measure.rounds:
            started = measure.start(round_, accumulated)
            likely = self._likely(measure, outputs, index, round_, started, known)
            found = None if likely is None else self._searched(likely, outputs, index, started, known)
            if found is not None:
                accumulated = once.concluded(started, *found)
                round_ += 2
                continue
            accumulated = self.round(outputs, index, step, round_, started, known)
            round_ += 1
        return accumulated

    def _searched(
        self,
        likely: once.Likely,
        outputs: Sequence[Output],
        index: int,
        started: Any,
        known: Statistics,
    ) -> tuple[Found, NDArray[Any]] | None:
        """Find what two rounds are to find near what a sample says; None if that was wrong."""
        total, reads = sum(output.info.numel for output in outputs), 0

        def read(said: once.Likely, unexpected: bool) -> once.Seen:
            nonlocal reads
            reads += 1
            near = _with(known, index, said.narrowed(started))
            return self.bracket(outputs, index, said, near, quiet=unexpected)

        found = once.search(likely, total, read)
        if found is not None and reads == 1:
            self.tick(len(outputs))  # the read that was not needed
        return found

    def _likely(
        self,
        measure: Measure,
        outputs: Sequence[Output],
        index: int,
        round_: int,
        started: Any,
        known: Statistics,
    ) -> once.Likely | None:
        """Say from a sample where the order statistics lie that two rounds are to find."""
        total = sum(output.info.numel for output in outputs)
        before = [step.op.name for step in _steps_of(outputs[0])[:index] if step.op is not None]
        if round_ % 2 or total < rooms.LEAST:
            return None
        for output in outputs:
            taken = self._fused[output.name] and once.worthwhile(measure, output, before)
            if output.info.numel and not taken:
                return None
        asked = once.asked_by(measure, outputs[0], index, round_, started)
        sampled = self._sampled(asked, outputs, index, _with(known, index, started), total)
        return once.likely(asked, sampled, once.SPREAD, total)

    def _sampled(
        self,
        asked: once.Asked,
        outputs: Sequence[Output],
        index: int,
        known: Statistics,
        total: int,
    ) -> NDArray[Any]:
        """Return what is ranked of pieces from all over the tensors."""
        places = list(once.places([output.info.numel for output in outputs], total))
        room = sum(len(starts) * length for starts, length in places)
        sampled, at = np.empty((asked.rows, room), np.uint32), 0
        for output, (starts, length) in zip(outputs, places, strict=True):
            if not starts:
                continue
            arena, made = self._arena(output), fused.compile_output(output, known)
            arena.bad[:] = 0
            at = once.sample(
                asked, arena, output, made, index, starts, length, sampled, at,
                self._reader(arena, output),
            )  # fmt: skip
            self._check(arena, output)
        self._local.arena = None  # what counts has buffers of its own
        return sampled[:, :at]

    def bracket(
        self,
        outputs: Sequence[Output],
        index: int,
        likely: once.Likely,
        known: Statistics,
        *,
        quiet: bool = False,
    ) -> once.Seen:
        """Count and gather in one read of the outputs, each thread on its own; ``quiet``: no ticks."""
        bins = self._bins(outputs)
        if len(bins) > 1:
            parts = self._forked(
                bins, lambda own, part: own.bracket(part, index, likely, known, quiet=quiet)
            )
            return _joined(parts)
        queue = _Queue(outputs)
        room = rooms.of_model(sum(output.info.numel for output in outputs))

        def work() -> once.Seen:
            bracket = once.Bracket.of(likely, room)
            for output in queue:
                if output.info.numel:
                    arena, made = self._arena(output), fused.compile_output(output, known)
                    for piece in self._pieces(output):
                        self._fill(arena, output, piece)
                        arena.bad[:] = 0
                        bracket.see(arena, output, made, index, piece)
                        self._check(arena, output)
                if not quiet:
                    self._ticks.tick()
            return bracket.seen()

        return _joined(self._spread(work, self.options.threads))

    def round(
        self,
        outputs: Sequence[Output],
        index: int,
        step: Step,
        round_: int,
        started: Any,
        known: Statistics,
    ) -> Any:
        """Run one round of a measure over outputs, each thread into an accumulator of its own."""
        measure = step.measure
        if measure is None:
            raise ValueError(f"the step {step.name} has no measure")
        bins = self._bins(outputs)
        if measure.join is not None and len(bins) > 1:
            found = self._forked(
                bins, lambda own, part: own.round(part, index, step, round_, started, known)
            )
            return reduce(measure.join, found)
        threads = self.options.threads if measure.join is not None else 1
        queue = _Queue(outputs)

        def work() -> Any:
            counter = _Counter(measure, round_, started)
            for output in queue:
                self._see(output, index, counter, known)
                self._ticks.tick()
            return counter.result()

        found = self._spread(work, threads)
        if measure.join is None:
            return found[0]
        return reduce(measure.join, found)

    def run(self, outputs: Sequence[Output], statistics: dict[int, Statistics], sink: Sink) -> None:
        """Make outputs, the largest first, and hand their bytes to the sink."""
        bins = self._bins(outputs)
        if len(bins) > 1:
            self._forked(bins, lambda own, part: own.run(part, statistics, sink))
            return
        queue = _Queue(outputs)

        def work() -> None:
            for output in queue:
                known = statistics.get(id(output.chain), {})
                self._make(output, known, sink)
                self._ticks.tick()
            if self.options.by_device:
                self._lane().finish()

        self._spread(work, self.options.threads)

    def _bins(self, outputs: Sequence[Output]) -> list[list[Output]]:
        """Deal outputs to the workers, the largest first to whoever has least to do."""
        bins: list[list[Output]] = [[] for _ in range(max(1, min(self.options.workers, len(outputs))))]
        loads = [0] * len(bins)
        for output in sorted(outputs, key=lambda output: -output.info.nbytes):
            least = loads.index(min(loads))
            bins[least].append(output)
            loads[least] += output.info.nbytes + 1
        return bins

    def _forked(
        self, bins: Sequence[Sequence[Output]], work: Callable[[Engine, Sequence[Output]], Any]
    ) -> list[Any]:
        """Do parts in processes of their own, and take over what they hashed."""

        def part(number: int, tick: Callable[[], None]) -> tuple[Any, Digests]:
            told = replace(self.options, workers=1, progress=lambda *_: tick())
            with _one_thread_each(), Engine(self.plan, told) as own:
                return work(own, bins[number]), own.digests

        found = spread(len(bins), part, self._ticks.tick)
        for _, digests in found:
            self.digests.update(digests)
        return [result for result, _ in found]

    def _spread(self, work: Callable[[], Any], threads: int) -> list[Any]:
        """Run ``work`` in every thread; the first error stops the others at their next slice."""
        if threads <= 1:
            return [work()]

        def guarded() -> Any:
            try:
                return work()
            except BaseException:
                self._ticks.stopped = True
                raise

        # threads of the next read have memory of their own
        with giving_back(), _one_thread_each(), ThreadPoolExecutor(threads) as pool:
            futures = [pool.submit(guarded) for _ in range(threads)]
            try:
                wait(futures)
            except BaseException:  # the user's, while waiting
                self._ticks.stopped = True
                raise
        errors = [error for future in futures if (error := future.exception()) is not None]
        for error in sorted(errors, key=lambda error: isinstance(error, Stopped)):
            raise error
        return [future.result() for future in futures]

    # one tensor

    def _make(self, output: Output, known: Statistics, sink: Sink) -> None:
        if output.info.numel == 0:
            self._record(output, hashlib.sha256())
            return
        if output.chain is None and output.info.kind == output.experts[0].info.kind:
            self._copy(output, sink)
        elif self._fused[output.name]:
            self._make_fused(output, known, sink)
        elif self.options.by_device:
            self._make_on_device(output, known, sink)
        else:
            self._make_plain(output, known, sink)

    def _make_plain(self, output: Output, known: Statistics, sink: Sink) -> None:
        how, check = self.plan.cutting(output), self.options.nan == "refuse"
        with giving_back() if how.slicewise else contextlib.nullcontext():
            known = dict(known) | tensor_statistics(output, how, check=check)
        state = hashlib.sha256()
        with self._alone(output), torch.inference_mode():
            for piece in pieces(output.info, how):
                self._ticks.check()
                base, *loaded = load(output, piece, check=check)
                stack = apply_steps(output, loaded.pop(), known)  # nobody else holds it
                data = tensor_bytes(finish(base, stack, output.info.dtype, self.options.nan))
                del base, stack
                if self.options.digest:
                    state.update(data)
                sink.write(output.name, piece.start * output.info.itemsize, data)
        self._record(output, state)

    def _make_on_device(self, output: Output, known: Statistics, sink: Sink) -> None:
        how, lane, state = self.plan.cutting(output), self._lane(), hashlib.sha256()

        def read(piece: Piece) -> Stack:
            self._ticks.check()
            return lane.load(output, piece)

        def take(piece: Piece) -> Callable[[memoryview], None]:
            self._ticks.check()

            def taken(data: memoryview) -> None:
                if self.options.digest:
                    state.update(data)
                sink.write(output.name, piece.start * output.info.itemsize, data)
                if piece.stop == output.info.numel:
                    self._record(output, state)

            return taken

        with self._alone(output):
            with torch.inference_mode(), lane.steps():
                known = dict(known) | tensor_statistics(output, how, check=True, read=read)
            lane.make(output, known, take)

    def _lane(self) -> Lane:
        """Return what this thread has under way on the device."""
        lane: Lane | None = getattr(self._local, "lane", None)
        if lane is None:
            lane = Lane(self.options.device, self.plan, self.options.nan, self._read)
            self._local.lane = lane
        return lane

    def _read(self, ref: Ref, piece: Piece, into: memoryview) -> None:
        """Fill memory with the bytes of a piece of a source."""
        if not isinstance(ref.checkpoint, SafetensorsCheckpoint):
            with torch.inference_mode():
                into[:] = tensor_bytes(read_piece(ref, piece))
            return
        header, offset = ref.checkpoint.locate(ref.name)
        descriptor = self.files.descriptor(header)
        start = offset + piece.start * ref.info.itemsize
        read_into(descriptor, start, into, header.path, ref.name)

    def _copy(self, output: Output, sink: Sink) -> None:
        (ref,) = output.experts
        state, size = hashlib.sha256(), output.info.itemsize
        for piece in pieces(output.info, self.plan.cutting(output)):
            self._ticks.check()
            data = memoryview(bytearray(piece.count * size))
            self._read(ref, piece, data)
            if self.options.digest:
                state.update(data)
            sink.write(output.name, piece.start * size, data)
        self._record(output, state)

    def _make_fused(self, output: Output, known: Statistics, sink: Sink) -> None:
        arena, whole = self._arena(output), list(self._pieces(output))
        made = fused.compile_output(output, self._tensor_statistics(output, arena, whole, known))
        state, size = hashlib.sha256(), output.info.itemsize
        raw = arena.out8.data
        for piece in whole:
            self._fill(arena, output, piece)
            arena.bad[:] = 0
            arena.merge(output, made, piece.count, piece.start)
            self._check(arena, output, piece.count)
            data = raw[: piece.count * size]
            sink.write(output.name, piece.start * size, data)
            if self.options.digest:
                state.update(data)
        self._record(output, state)

    def _tensor_statistics(
        self, output: Output, arena: fused.Arena, whole: list[Piece], known: Statistics
    ) -> Statistics:
        """Run the measures of one tensor in slices, by the kernels."""
        chain = output.chain
        if chain is None:
            return known
        known = dict(known)
        again: dict[int, tuple[Measure, Any]] = {}
        for index, step in enumerate(chain.steps):
            if step.slicewise is None:
                continue
            if not output.info.shape and step.slicewise.count == "magnitudes":  # nothing to rank
                continue
            accumulated: Any = None
            names = [before.op.name for before in chain.steps[:index] if before.op is not None]
            if index in again:
                continue
            if once.worthwhile(step.slicewise, output, names):
                made, arena.bad[:] = fused.compile_output(output, known), 0
                found = once.of_tensor(output, index, arena, made, whole, self._reader(arena, output))
                self._check(arena, output)
                again |= found
                if index in again:
                    continue
            for round_ in range(step.slicewise.rounds):
                counter = _Counter(step.slicewise, round_, step.slicewise.start(round_, accumulated))
                fresh = known | {i: m.done(a) for i, (m, a) in again.items()}
                for piece in whole:
                    self._fill(arena, output, piece)
                    arena.bad[:] = 0
                    self._count(counter, arena, output, fresh, piece, index)
                accumulated = counter.result()
            again[index] = (step.slicewise, accumulated)
        return known | {i: m.done(a) for i, (m, a) in again.items()}

    def _see(self, output: Output, index: int, counter: _Counter, known: Statistics) -> None:
        """Show one tensor to a measure of the model."""
        if output.info.numel == 0:
            return
        if self._fused[output.name] and counter.countable:
            arena, whole = self._arena(output), list(self._pieces(output))
            fresh = self._tensor_statistics(output, arena, whole, known)
            for piece in whole:
                self._fill(arena, output, piece)
                arena.bad[:] = 0
                self._count(counter, arena, output, fresh, piece, index)
            return
        check = self.options.nan == "refuse"
        with self._alone(output), torch.inference_mode():
            for piece in pieces(output.info, self.plan.cutting(output)):
                self._ticks.check()
                if self.options.by_device:
                    lane = self._lane()
                    stack = lane.load(output, piece)
                    with lane.steps():
                        counter.see(apply_steps(output, stack, known, upto=index))
                    continue
                _, stack = load(output, piece, check=check)
                counter.see(apply_steps(output, stack, known, upto=index))

    def _alone(self, output: Output) -> contextlib.AbstractContextManager[Any]:
        """Let one tensor that is worked on as a whole be in memory at a time, not one per thread."""
        alone = contextlib.ExitStack()
        if self.plan.alone(output):
            alone.enter_context(self._matrix)
            alone.enter_context(giving_back())
        return alone

    def _pieces(self, output: Output) -> Iterator[Piece]:
        """Yield the pieces for the kernels: rows where a step ranks them, else flat slices."""
        row = output.info.shape[-1] if output.info.shape else 1
        step = self._step(output)
        if fused.by_row(output):
            step = output.info.numel if len(output.info.shape) < 2 else max(1, step // row) * row
        for start in range(0, output.info.numel, step):
            stop = min(start + step, output.info.numel)
            yield Piece(start, stop, (stop - start,))

    def _step(self, output: Output) -> int:
        """Return the elements of a slice for the kernels."""
        return fused.slice_elements(output, self.plan.elements)

    def _arena(self, output: Output) -> fused.Arena:
        """Return this thread's buffers, made larger where a row needs it."""
        arena: fused.Arena | None = getattr(self._local, "arena", None)
        sources = len(output.sources)
        row = output.info.shape[-1] if output.info.shape and fused.by_row(output) else 0
        if output.chain is not None:
            row = max(row, output.chain.block)
        elements = max(min(self._step(output), output.info.numel), row)
        if (
            arena is None
            or arena.sources < sources
            or arena.elements < elements
            or arena.block_elements < row
            or arena.itemsize < fused.itemsize(output)
        ):
            old = arena
            self._local.arena = None
            most = max(sources, old.sources if old else 0)
            arena = fused.Arena(
                most,
                max(elements, min(self.plan.elements, self._largest), old.elements if old else 0),
                max(row, old.block_elements if old else 0),
                max(fused.itemsize(output), old.itemsize if old else 0),
            )
            self._local.arena = arena
        return arena

    @property
    def _largest(self) -> int:
        return max((output.info.numel for output in self.plan.program.outputs), default=0)

    def _fill(self, arena: fused.Arena, output: Output, *pieces: Piece) -> None:
        """Read pieces of every source into the arena, one after the other."""
        self._ticks.check()
        for raw, spot in zip(arena.raw, self._spots(output), strict=False):
            at = 0
            for piece in pieces:
                end = at + piece.count * spot.size
                if spot.descriptor is None:
                    self._read(spot.ref, piece, raw[at:end])
                else:
                    start = spot.offset + piece.start * spot.size
                    read_into(spot.descriptor, start, raw[at:end], spot.path, spot.ref.name)
                at = end

    def _spots(self, output: Output) -> list[_Spot]:
        """Return where the sources of an output lie, which is looked up once for all its slices."""
        last: tuple[Output, list[_Spot]] | None = getattr(self._local, "spots", None)
        if last is None or last[0] is not output:
            last = output, [self._spot(ref) for ref in output.sources]
            self._local.spots = last
        return last[1]

    def _spot(self, ref: Ref) -> _Spot:
        if not isinstance(ref.checkpoint, SafetensorsCheckpoint):
            return _Spot(ref, ref.info.itemsize)
        header, offset = ref.checkpoint.locate(ref.name)
        descriptor = self.files.descriptor(header)
        return _Spot(ref, ref.info.itemsize, descriptor, offset, header.path)

    def _reader(self, arena: fused.Arena, output: Output) -> Callable[[Sequence[Piece]], None]:
        """Return what reads pieces of an output into the arena."""
        return lambda pieces: self._fill(arena, output, *pieces)

    def _count(
        self,
        counter: _Counter,
        arena: fused.Arena,
        output: Output,
        known: Statistics,
        piece: Piece,
        index: int,
    ) -> None:
        """Count a slice; an input that is not finite is named before what it does to a sum."""
        try:
            counter.count(arena, output, known, piece, index)
        except NumericalError:
            self._check(arena, output)
            raise
        self._check(arena, output)

    def _check(self, arena: fused.Arena, output: Output, count: int = 0) -> None:
        """Refuse what is not finite: of the experts, of the base, then of ``count`` results."""
        if self.options.nan == "allow" or not arena.bad.any():
            return
        names = [*(f"expert {name!r}" for name in output.names), "the base"]
        for name, ref, bad in zip(names, output.sources, arena.bad, strict=False):
            if bad:
                raise nonfinite(ref, name)
        if count:
            raise too_large(output.name, arena.nonfinite(output, count), f"torch.{output.info.kind}")

    def _record(self, output: Output, state: Any) -> None:
        if self.options.digest:
            self.digests.outputs[output.name] = state.hexdigest()


class _Counter:
    """An accumulator of one thread for one round, filled by the kernels, the plain steps, or both."""

    def __init__(self, measure: Measure, round_: int, started: Any) -> None:
        self._measure = measure
        self._what, self._bins = fused.ROUNDS[measure.count][round_] if measure.count else (0, 0)
        self._started = started
        self._plain = _fresh(started)
        self._found: NDArray[np.int64] | None = None
        self._top: Any = None
        self._products: list[NDArray[np.float64]] = []
        self._made: tuple[Output, fused.Compiled] | None = None

    @property
    def countable(self) -> bool:
        """Whether the kernels know what is counted."""
        return self._measure.count is not None

    @property
    def _radix(self) -> Radix | None:
        found = self._started if isinstance(self._started, Radix) else None
        return getattr(self._started, "radix", found)

    def see(self, stack: Any) -> None:
        """Take a stack from the plain steps."""
        self._plain = self._measure.see(self._plain, stack)

    def count(
        self, arena: fused.Arena, output: Output, known: Statistics, piece: Piece, index: int
    ) -> None:
        """Take a slice from the arena; what is ``known`` must be the same for all of a tensor."""
        if self._made is None or self._made[0] is not output:
            self._made = output, fused.compile_output(output, _with(known, index, self._started))
        made, rows = self._made[1], len(output.experts)
        if self._measure.count == "gram":
            found = arena.products(output, made, piece.count, piece.start, upto=index)
            self._products.append(found)
            return
        if self._measure.count in fused.SUMS and self._measure.add is not None:
            cells = np.zeros((rows * (1 + (self._measure.count == "elected")), CELLS), np.int64)
            arena.sums(output, made, piece.count, piece.start, upto=index, what=self._what, found=cells)
            summed = Summed(output.name, piece.count, output.info.numel, ExactSums.of_cells(cells))
            self._plain = self._measure.add(self._plain, summed)
            return
        radix = self._radix
        rows = 1 if fused.varies(output, index) else rows
        prefix = radix.prefix if radix is not None else None
        if prefix is None:
            prefix = np.zeros(rows, np.int64)
        if self._found is None:
            self._found = np.zeros((len(prefix), 4, self._bins), np.int64)
        arena.count(
            output,
            made,
            piece.count,
            piece.start,
            upto=index,
            what=self._what,
            prefix=prefix,
            found=self._found,
        )
        if self._measure.count == "scores":
            top = made.bounds[index, 3].copy()
            self._top = top if self._top is None else np.maximum(self._top, top)

    def result(self) -> Any:
        """Return the measure's own kind of accumulator."""
        if self._products:
            return [*(self._plain or []), *self._products]
        if self._found is None:
            return self._plain
        counted: Any = int(self._found[0, 0, 0])
        radix = self._radix
        if self._measure.count == "scores":
            counted = self._started.counted(self._found.sum(1), self._top)
        elif self._measure.count == "magnitudes":
            counts = self._found.sum(1)
            counted = Radix(counts) if radix is None else replace(radix, counts=counts)
        if self._plain is None:
            return counted
        if self._measure.join is None:
            raise ValueError("a measure that is counted by kernels can be joined")
        return self._measure.join(self._plain, counted)


def _joined(parts: Sequence[once.Seen]) -> once.Seen:
    return reduce(once.Seen.join, parts)


def _steps_of(output: Output) -> tuple[Step, ...]:
    return output.chain.steps if output.chain is not None else ()


def _with(known: Statistics, index: int, started: Any) -> Statistics:
    """Return what is known, with what a round that has started knows itself."""
    own = getattr(started, "known", None)
    return known if own is None else {**known, index: own}


def _fresh(started: Any) -> Any:
    """Return a copy of a started accumulator that this thread may fill."""
    return started.fresh() if isinstance(started, Radix) else started


class _Queue:
    """Jobs, the largest first, taken by whichever thread is free (``next`` holds the GIL)."""

    def __init__(self, outputs: Sequence[Output]) -> None:
        self._jobs = iter(sorted(outputs, key=lambda output: -output.info.nbytes))

    def __iter__(self) -> Iterator[Output]:
        return self._jobs


@contextlib.contextmanager
def _one_thread_each() -> Iterator[None]:
    """Keep torch, where it is in use, from starting threads below ours."""
    import sys

    real = sys.modules.get("torch")
    if real is None:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        yield
        return
    before = real.get_num_threads()
    real.set_num_threads(1)
    try:
        yield
    finally:
        real.set_num_threads(before)


class Stopped(Exception):
    """Another thread failed."""


class _Ticks:
    """Counts tensors for the listener, and tells threads to stop."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0
        self._lock = threading.Lock()
        self.stopped = False

    def tick(self) -> None:
        """One more tensor."""
        with self._lock:
            self._done += 1
            self._progress(_LABEL, self._done, self._total)

    def check(self) -> None:
        """Leave if another thread failed."""
        if self.stopped:
            raise Stopped
