"""``--device``: slices go there through pinned buffers, the steps run there, the results come back.

One thread of the engine drives one `Lane`. A lane has two slots, each a slice under way: while the
device copies and computes one, the thread reads the next, and it writes the one before when that is
back. On CUDA a lane has three streams (there, steps, back) and its host buffers are pinned, so that
copies run beside the steps; on other devices the same code copies and computes in turn. Where slices are
whole tensors, sources are checked before the steps see them; elsewhere the marks of what is not finite
come back with the result, so that nothing waits for them.

The steps are the plain ones (`taskloom.merging.plain`), in float32, or float64 where they or a source
ask for it. On ``cpu`` they give the bytes of the plain steps. On a GPU, steps that work entry by entry
are single IEEE operations; sums whose order torch chooses (norms, matrix products, decompositions) may
round otherwise. Random numbers are made on the CPU, and the thresholds of rows are found there.
Thresholds of whole models are found by histograms that the device counts, in integers; inner products
are added in float64 in the order of the CPU.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from taskloom.algebra import Grain, Stack
from taskloom.errors import PlanError
from taskloom.lazy import Tensor, torch
from taskloom.merging.plain import (
    Nan,
    apply_steps,
    count_nonfinite,
    nonfinite,
    one_nan,
    read_statistic,
    settle,
    too_large,
)
from taskloom.merging.plan import MergePlan
from taskloom.merging.program import Output, Ref
from taskloom.merging.slices import Piece, piece_elements, pieces

#: numbers of a slice of one source: launching a step on a GPU costs as much as many numbers do
SLICE = 1 << 22
#: slices of a lane under way
SLOTS = 2
#: reads a piece of a source into host memory
Read = Callable[[Ref, Piece, memoryview], None]
#: takes the bytes of a piece that is back
Take = Callable[[memoryview], None]


@cache
def usable(name: str) -> str:
    """Return the name of a device that can be used, ``cpu`` whichever CPU is meant.

    Raises
    ------
    PlanError
        torch does not know it, it is not there, or it has no float64.
    """
    if name == "cpu":
        return name
    away = "Take 'cpu' (the default), or 'cuda' on a machine with an NVIDIA GPU"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise PlanError(f"device {name!r}: torch knows no such device", hint=away) from error
    if device.type == "cpu":
        return "cpu"
    if device.type == "cuda":
        _check_cuda(name, device)
    try:
        torch.ones(1, dtype=torch.float64, device=device).item()
    except Exception as error:  # every backend has errors of its own
        reason = str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else "no reason"
        raise PlanError(f"device {name!r} cannot be used: {reason}", hint=away) from error
    return name


def _check_cuda(name: str, device: torch.device) -> None:
    if not torch.cuda.is_available():
        raise PlanError(
            f"device {name!r}: torch {torch.__version__} finds no GPU that it can use",
            hint="Leave --device out to merge on the CPU, or install a build of torch with CUDA on a "
            "machine with an NVIDIA GPU",
        )
    count = torch.cuda.device_count()
    if device.index is not None and device.index >= count:
        raise PlanError(
            f"device {name!r}: there are {count} GPUs, counted from 0",
            hint=f"Take cuda:0 to cuda:{count - 1}",
        )


def check_device(name: str, *, workers: int = 1, ray: str | None = None) -> str:
    """Return `usable`, and hold it against what else is asked for.

    Raises
    ------
    PlanError
        As `usable`; or other processes are to take part, which have the device no faster.
    """
    found = usable(name)
    if found != "cpu" and (workers > 1 or ray is not None):
        other = "--ray" if ray is not None else f"--workers {workers}"
        raise PlanError(
            f"--device {name} and {other}: a device is driven by one process",
            hint="Leave one of them out; --threads goes with --device",
        )
    return found


def suited(device: str, chosen: int | None) -> int | None:
    """Return the bytes of a slice in float32: what was chosen, else what suits the device."""
    return 4 * SLICE if chosen is None and device != "cpu" else chosen


def describe(name: str, plan: MergePlan) -> dict[str, str | int]:
    """Return what a merge records of its device, on which sums may depend.

    Returns
    -------
    dict
        ``type``, ``slice_elements`` and, of a GPU, its ``name``.
    """
    device = torch.device(name)
    told: dict[str, str | int] = {"type": device.type, "slice_elements": plan.elements}
    if device.type == "cuda":
        told["name"] = torch.cuda.get_device_name(device)
    return told


@dataclass(frozen=True)
class Needed:
    """Bytes that a merge takes at most, about: of host buffers, and of the device."""

    host: int
    device: int


def memory(plan: MergePlan, threads: int) -> Needed:
    """Return what a merge on a device takes, apart from what its driver takes for itself.

    Every thread has two slots with a slice of all sources and of the result, on both sides, and on the
    device the slices as float32 with what the steps make of them. One tensor that is worked on as a
    whole matrix is under way at a time.
    """
    slots = steps = matrix = whole = 0
    for output in plan.program.outputs:
        if output.chain is None and output.info.kind == output.experts[0].info.kind:
            continue  # copied from file to file
        count = piece_elements(output.info, plan.cutting(output))
        raw = count * (sum(ref.info.itemsize for ref in output.sources) + output.info.itemsize)
        if output.chain is not None and output.chain.grain == Grain.MATRIX:
            whole, matrix = max(whole, raw), max(matrix, _steps(output, count))
        else:
            slots, steps = max(slots, SLOTS * raw), max(steps, _steps(output, count))
    return Needed(threads * slots + whole, threads * (slots + steps) + whole + matrix)


def _steps(output: Output, count: int) -> int:
    """Bytes of a stack, of its base and sum, of its statistics, and of what one step makes of it."""
    experts = len(output.experts)
    taken = 4 * count * (2 * experts + 3 + experts * len(output.beside))
    asked = [] if output.chain is None else [s.workspace for s in output.chain.steps if s.workspace]
    shape = output.info.shape if count == output.info.numel else (count,)
    return taken + max((each(shape, experts) for each in asked), default=0)


class _Streams:
    """Three queues of a GPU: copies there, steps, copies back. Elsewhere everything is done at once."""

    def __init__(self, device: torch.device) -> None:
        self._made = device.type == "cuda"
        if self._made:
            stream: Callable[[torch.device], Any] = torch.cuda.Stream
            self._there, self._steps, self._back = (stream(device) for _ in range(3))

    def there(self) -> contextlib.AbstractContextManager[Any]:
        """Copy to the device."""
        return torch.cuda.stream(self._there) if self._made else contextlib.nullcontext()

    @contextlib.contextmanager
    def steps(self) -> Iterator[None]:
        """Compute, when what was copied is there."""
        if not self._made:
            yield
            return
        self._steps.wait_stream(self._there)
        with torch.cuda.stream(self._steps):
            yield

    @contextlib.contextmanager
    def back(self) -> Iterator[None]:
        """Copy from the device, when what was computed is done."""
        if not self._made:
            yield
            return
        self._back.wait_stream(self._steps)
        with torch.cuda.stream(self._back):
            yield

    def mark(self) -> Any:
        """Return an event behind all that is to be copied back; None where nothing is under way."""
        return self._back.record_event() if self._made else None

    def wait(self) -> None:
        """Wait until the steps so far are done."""
        if self._made:
            self._steps.synchronize()


class _Buffers:
    """Bytes in one memory by key, each as large as was asked for so far."""

    def __init__(self, device: torch.device, *, pinned: bool = False) -> None:
        self._device, self._pinned = device, pinned
        self._held: dict[int, Tensor] = {}

    def get(self, key: int, size: int) -> Tensor:
        """Return ``(size,)`` uint8; what an earlier call with this key returned is lost."""
        found = self._held.get(key)
        if found is None or found.numel() < size:
            self._held.pop(key, None)
            found = torch.empty(size, dtype=torch.uint8, device=self._device, pin_memory=self._pinned)
            self._held[key] = found
        return found[:size]

    def forget(self, most: int) -> None:
        """Let go of what is larger."""
        self._held = {key: held for key, held in self._held.items() if held.numel() <= most}


class _Slot:
    """Buffers of one slice on both sides, and what is to be done when it is back."""

    def __init__(self, device: torch.device) -> None:
        self.host = _Buffers(torch.device("cpu"), pinned=device.type == "cuda")
        self.device = _Buffers(device)
        self.done: Any = None
        self.finish: Callable[[], None] | None = None
        self.held: tuple[Tensor, ...] = ()  #: of the device, until the copies back are done


#: keys of a slot's buffers beside those of the sources, which are 0, 1, ...
_RESULT, _MARKS = -1, -2


class Lane:
    """What one thread has under way on a device.

    Parameters
    ----------
    name
        Of the device, as `usable` returns it.
    plan
        How tensors are cut.
    nan
        What NaN and infinity in an input lead to.
    read
        Fills host memory from a source.
    """

    def __init__(self, name: str, plan: MergePlan, nan: Nan, read: Read) -> None:
        self._device = torch.device(name)
        self._plan, self._nan, self._read = plan, nan, read
        self._streams = _Streams(self._device)
        self._slots = [_Slot(self._device) for _ in range(SLOTS)]
        self._next = 0

    def make(self, output: Output, known: Mapping[int, Any], take: Callable[[Piece], Take]) -> None:
        """Merge a tensor and give its pieces, in order, to what ``take`` returns for each.

        The last pieces are given while later tensors are made, or by `finish`; a tensor whose grain is
        ``matrix`` is given before this returns.

        Raises
        ------
        NumericalError
            NaN or infinity in an input, or a value that the output's dtype cannot hold: of this tensor
            or of the one before.
        PlanError
            The device's memory is full.
        """
        grain = Grain.ELEMENT if output.chain is None else output.chain.grain
        for piece in pieces(output.info, self._plan.cutting(output)):
            with self._room(output):
                self._send(output, piece, known, take(piece), check=grain >= Grain.TENSOR)
        if grain == Grain.MATRIX:
            self.finish()
            for slot in self._slots:
                slot.host.forget(8 * self._plan.elements)
                slot.device.forget(8 * self._plan.elements)

    def load(self, output: Output, piece: Piece) -> Stack:
        """Return a piece of all experts on the device, checked: what measures see.

        Raises
        ------
        NumericalError, PlanError
            As `make`.
        """
        with self._room(output):
            raw = self._sources(self._slot(), output, piece)
            with self._streams.steps():
                _, stack, marks = self._stack(output, piece, raw)
                self._check(output, marks)
            self._streams.wait()
        return stack

    def steps(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context in which a stack from `load` is worked on."""
        return self._streams.steps()

    def finish(self) -> None:
        """Wait for all that is under way, and give it to those who take it."""
        for _ in self._slots:
            self._slot()

    def _slot(self) -> _Slot:
        """Return the slot whose turn it is, after what was in it is given away."""
        slot = self._slots[self._next]
        self._next = (self._next + 1) % SLOTS
        if slot.finish is not None:
            finish, slot.finish = slot.finish, None
            if slot.done is not None:
                slot.done.synchronize()
            slot.held = ()
            finish()
        return slot

    def _sources(self, slot: _Slot, output: Output, piece: Piece) -> list[Tensor]:
        """Read a piece of every source, and have it copied to the device as soon as it is read."""
        found = []
        for k, ref in enumerate(output.sources):
            size = piece.count * ref.info.itemsize
            host, there = slot.host.get(k, size), slot.device.get(k, size)
            self._read(ref, piece, host.numpy().data)
            with self._streams.there():
                there.copy_(host, non_blocking=True)
            found.append(there.view(ref.info.dtype).reshape(piece.shape))
        return found

    def _stack(
        self, output: Output, piece: Piece, raw: list[Tensor]
    ) -> tuple[Tensor | None, Stack, Tensor]:
        """Return base, stack and a mark per source: whether it has anything that is not finite."""
        count = len(output.experts)
        double = any(tensor.dtype == torch.float64 for tensor in raw)
        wide = torch.float64 if double else torch.float32
        values = torch.stack([tensor.to(wide) for tensor in raw[:count]])
        marks = [~torch.isfinite(values).reshape(count, -1).all(1)]
        base = None
        if len(raw) > count:
            base = raw[count].to(wide)
            marks.append(~torch.isfinite(base).reshape(1, -1).all(1))
            values = values - base
        check = self._nan == "refuse"
        known = {
            each.need.kind: read_statistic(output, each, piece, wide, check=check).to(self._device)
            for each in output.beside
            if each.need.how != "table"
        }
        tables = {each.need.kind: each.tables for each in output.beside}
        numel = output.info.numel
        stack = Stack(output.name, values, output.names, piece.start, numel, known, tables)
        return base, stack, torch.cat(marks)

    def _send(
        self, output: Output, piece: Piece, known: Mapping[int, Any], take: Take, *, check: bool
    ) -> None:
        """Start a piece on its way: there, through the steps, and back."""
        slot = self._slot()
        raw = self._sources(slot, output, piece)
        with self._streams.steps():
            base, stack, marks = self._stack(output, piece, raw)
            if check:
                self._check(output, marks)
            try:
                stack = apply_steps(output, stack, known)
            except Exception:
                self._check(output, marks)  # what is not finite is the cause to name
                raise
            merged, cast = settle(base, stack, output.info.dtype)
            over = ~torch.isfinite(cast.to(merged.dtype)).reshape(1, -1).all(1)
            marks = torch.cat([marks, over]).to(torch.uint8)
            data = cast.contiguous().reshape(-1).view(torch.uint8)
        with self._streams.back():
            home, flags = slot.host.get(_RESULT, len(data)), slot.host.get(_MARKS, len(marks))
            home.copy_(data, non_blocking=True)
            flags.copy_(marks, non_blocking=True)
        slot.done, slot.held = self._streams.mark(), (data, marks)
        slot.finish = lambda: self._give(output, home, flags, take)

    def _give(self, output: Output, home: Tensor, flags: Tensor, take: Take) -> None:
        """Check what came back, and give it away."""
        if self._nan == "allow":
            home = one_nan(home.view(output.info.dtype)).view(torch.uint8)
        elif flags.any():
            self._check(output, flags[:-1])
            values = home.view(output.info.dtype).to(torch.float64)
            raise too_large(output.name, count_nonfinite(values), str(output.info.dtype))
        take(home.numpy().data)

    def _check(self, output: Output, marks: Tensor) -> None:
        """Refuse what is not finite: of the experts, then of the base."""
        if self._nan == "allow":
            return
        names = [*(f"expert {name!r}" for name in output.names), "the base"]
        for name, ref, bad in zip(names, output.sources, marks.tolist(), strict=False):
            if bad:
                raise nonfinite(ref, name)

    @contextlib.contextmanager
    def _room(self, output: Output) -> Iterator[None]:
        """Say what to do where the device's memory is full."""
        try:
            with torch.inference_mode():
                yield
        except torch.OutOfMemoryError as error:
            raise PlanError(
                f"device {str(self._device)!r}: its memory is full at tensor {output.name!r} "
                f"{list(output.info.shape)} of {len(output.sources)} sources",
                hint="Take fewer --threads, a smaller --slice-size, or leave --device out",
            ) from error
