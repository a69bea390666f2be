"""Task vectors that are never in memory: added up, and multiplied with a gradient, piece by piece.

A pass goes over the tensors in pieces of a few thousand entries, each piece across all experts, so that
what it needs beside its result does not grow with the number of experts. Low-rank task vectors are used
as their factors. Threads share the pieces; sums are put together in the order of the pieces, so that
the same numbers come out for any number of threads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from taskloom.algebra import Chain, Stack
from taskloom.algebra.grouped import part_of
from taskloom.algebra.threads import one_thread
from taskloom.errors import PlanError
from taskloom.learn.coefficients.layout import Layout
from taskloom.learn.coefficients.reading import Reading
from taskloom.store.adapter import AdapterCheckpoint
from taskloom.store.checkpoint import Checkpoint

#: entries of all experts' pieces together, and the fewest of one piece
ROOM, LEAST = 1 << 19, 1 << 12
#: rows of a product of factors at a time
_ROWS = 256


@dataclass(frozen=True)
class Piece:
    """Entries ``start`` to ``stop`` of a flattened tensor."""

    name: str
    start: int
    stop: int


@dataclass(frozen=True)
class Factors:
    """A low-rank task vector of an expert: ``scaling * left @ right``, the scaling in ``left``."""

    expert: int
    left: Tensor
    right: Tensor


class TaskVectors:
    """Task vectors of experts of one base; a context that closes the files.

    Parameters
    ----------
    base, experts
        As stored; `Problem` has checked that they fit.
    layout
        What has a coefficient.
    skip
        Experts that take no part: their coefficients are 0.
    before
        Steps that make other vectors of the task vectors, such as the trim of TIES; of grain element.
    threads
        Changes no number.

    Raises
    ------
    PlanError
        ``before`` has a step that cannot run on pieces.
    """

    def __init__(
        self,
        base: Checkpoint,
        experts: Mapping[str, Checkpoint],
        layout: Layout,
        *,
        skip: Sequence[str] = (),
        before: Chain | None = None,
        threads: int = 1,
    ) -> None:
        self.layout = layout
        self._before = before if before is not None and before.steps else None
        if self._before is not None and (self._before.grain or self._before.needs):
            raise PlanError(f"{before} cannot run on pieces of tensors", hint="Take elementwise steps")
        self._used = tuple(k for k, name in enumerate(layout.experts) if name not in skip)
        self._checkpoints = tuple(experts[name] for name in layout.experts)
        self._infos = {name: base.tensors[name] for name in layout.tensors}
        self._threads = threads
        self._reading = Reading((*self._checkpoints, base))
        self._local = threading.local()
        self._known: dict[int, Any] = {}
        self._low_rank = self._before is None and layout.parts == 1
        self._dense = {name: self._dense_experts(name) for name in layout.tensors}
        self._size = max(LEAST, ROOM // max(1, len(self._used)))

    def __enter__(self) -> TaskVectors:
        self._measure()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._reading.__exit__(kind, error, trace)

    def dtype(self, name: str) -> torch.dtype:
        """Return what a tensor is computed in: float32, or float64 where a source is float64."""
        sources = [self._infos[name].kind, *(c.tensors[name].kind for c in self._checkpoints)]
        return torch.float64 if "float64" in sources else torch.float32

    def changed(self, name: str) -> bool:
        """Whether any expert can differ from the base there, as far as is known unread."""
        return bool(self._dense[name]) or any(self._factored(name))

    def build(self, table: Tensor, into: Mapping[str, Tensor]) -> None:
        """Write ``base + sum_k c_k tau_k`` into tensors.

        Parameters
        ----------
        table
            ``(K, G, P)``.
        into
            Name -> tensor of the base's shape and of `dtype`, contiguous.
        """
        self._each(self._pieces(into), lambda piece: self._build(piece, table, into[piece.name]))
        wanted = [name for name in into if self._low_rank and any(self._factored(name))]
        self._each(wanted, lambda name: self._add_factors(name, table, into[name]))

    def fold(self, gradients: Mapping[str, Tensor]) -> Tensor:
        """Return inner products of gradients and task vectors, summed by group: ``(K, G, P)`` float64.

        Parameters
        ----------
        gradients
            Name -> gradient with respect to the tensor, contiguous; tensors without one count as 0.
        """
        found = torch.zeros(self.layout.shape, dtype=torch.float64)
        pieces = list(self._pieces(gradients))
        sums = self._each(pieces, lambda piece: self._fold(piece, gradients[piece.name]))
        for piece, rows in zip(pieces, sums, strict=True):
            for k, row in zip(self._rows(piece.name), rows, strict=True):
                found[k, self.layout.place[piece.name]] += row
        wanted = [name for name in gradients if self._low_rank and any(self._factored(name))]
        for name, products in zip(
            wanted,
            self._each(wanted, lambda name: self._fold_factors(name, gradients[name])),
            strict=True,
        ):
            for k, product in products:
                found[k, self.layout.place[name], 0] += product
        return found

    def _rows(self, name: str) -> tuple[int, ...]:
        """Experts whose rows a piece of the tensor has."""
        return self._dense[name] if self._before is None else self._used

    def _dense_experts(self, name: str) -> tuple[int, ...]:
        return tuple(k for k in self._used if not self._is_low_rank(k, name))

    def _is_low_rank(self, k: int, name: str) -> bool:
        checkpoint = self._checkpoints[k]
        if not self._low_rank or not isinstance(checkpoint, AdapterCheckpoint):
            return False
        return name not in checkpoint.changed or checkpoint.rank(name) > 0

    def _factored(self, name: str) -> Iterator[int]:
        """Yield the experts that have factors for the tensor."""
        for k in self._used:
            checkpoint = self._checkpoints[k]
            if k in self._dense[name] or not isinstance(checkpoint, AdapterCheckpoint):
                continue
            if name in checkpoint.changed:
                yield k

    def _factors(self, name: str) -> Iterator[Factors]:
        for k in self._factored(name):
            checkpoint = self._checkpoints[k]
            found = checkpoint.factors(name) if isinstance(checkpoint, AdapterCheckpoint) else None
            if found is not None:
                left, right, scaling = found
                wide = self.dtype(name)
                yield Factors(k, left.to(wide) * scaling, right.to(wide))

    def _pieces(self, names: Mapping[str, Tensor]) -> Iterator[Piece]:
        for name in names:
            numel = self._infos[name].numel
            for start in range(0, numel, self._size):
                yield Piece(name, start, min(start + self._size, numel))

    def _rows_of(self, piece: Piece, upto: int | None = None) -> tuple[Tensor, Stack]:
        """Read a piece: the base's ``(n,)``, and task vectors ``(rows, n)`` after the steps before.

        ``upto`` is the number of the first step that is not taken; None takes them all.
        """
        wide, count = self.dtype(piece.name), piece.stop - piece.start
        experts = self._rows(piece.name)
        base, rows = self._scratch(wide, len(experts), count)
        self._reading.read(len(self._checkpoints), piece.name, piece.start, base)
        for row, k in zip(rows, experts, strict=True):
            self._reading.read(k, piece.name, piece.start, row)
        rows -= base
        names = tuple(self.layout.experts[k] for k in experts)
        stack = Stack(piece.name, rows, names, piece.start, self._infos[piece.name].numel)
        for number, step in enumerate(self._before.steps[:upto] if self._before is not None else ()):
            stack = step.apply(stack, self._known.get(number))
        return base, stack

    def _values(self, piece: Piece) -> tuple[Tensor, Tensor]:
        base, stack = self._rows_of(piece)
        return base, stack.values

    def _scratch(self, dtype: torch.dtype, rows: int, count: int) -> tuple[Tensor, Tensor]:
        """Return memory of this thread's own for a base's piece and the experts' rows."""
        found: dict[torch.dtype, Tensor] = self._local.__dict__.setdefault("room", {})
        if dtype not in found:
            found[dtype] = torch.empty((len(self._used) + 1) * self._size, dtype=dtype)
        flat = found[dtype]
        return flat[:count], flat[count : count * (rows + 1)].view(rows, count)

    def _build(self, piece: Piece, table: Tensor, into: Tensor) -> None:
        base, rows = self._values(piece)
        place = into.view(-1)[piece.start : piece.stop]
        experts = list(self._rows(piece.name))
        if not experts:
            place.copy_(base)
            return
        numbers = table[experts, self.layout.place[piece.name]].to(rows.dtype)
        if self.layout.parts == 1:
            torch.addmv(base, rows.t(), numbers[:, 0], out=place)
        else:
            torch.add(base, (rows * numbers[:, self._parts(piece)]).sum(0), out=place)

    def _fold(self, piece: Piece, gradient: Tensor) -> Tensor:
        """Return ``(rows, P)`` float64."""
        if not self._rows(piece.name):
            return torch.zeros(0, self.layout.parts, dtype=torch.float64)
        _, rows = self._values(piece)
        part = gradient.view(-1)[piece.start : piece.stop].to(rows.dtype)
        if self.layout.parts == 1:
            return torch.mv(rows, part).double()[:, None]
        sums = torch.zeros(len(rows), self.layout.parts, dtype=torch.float64)
        return sums.index_add_(1, self._parts(piece), (rows * part).double())

    def _parts(self, piece: Piece) -> Tensor:
        layout = self.layout
        return part_of(
            piece.name, piece.start, piece.stop - piece.start, layout.parts, layout.parts_seed
        )

    def _add_factors(self, name: str, table: Tensor, into: Tensor) -> None:
        several = list(self._factors(name))
        numbers = table[:, self.layout.place[name], 0]
        left = torch.cat([each.left * float(numbers[each.expert]) for each in several], 1)
        right = torch.cat([each.right for each in several])
        for start in range(0, len(left), _ROWS):
            into[start : start + _ROWS].addmm_(left[start : start + _ROWS], right)

    def _fold_factors(self, name: str, gradient: Tensor) -> list[tuple[int, float]]:
        """Return (expert, product): ``<G, L R> = sum((L^T G) * R)``."""
        return [
            (
                each.expert,
                float(((each.left.t() @ gradient.to(each.left.dtype)) * each.right).double().sum()),
            )
            for each in self._factors(name)
        ]

    def _measure(self) -> None:
        """Take the measures of the steps before, over all tensors of the model."""
        everything = dict.fromkeys(self.layout.tensors, torch.empty(0))
        with torch.no_grad(), one_thread():
            for number, step in enumerate(self._before.steps if self._before is not None else ()):
                if step.measure is None:
                    continue
                accumulated: Any = None
                for round_ in range(step.measure.rounds):
                    accumulated = step.measure.start(round_, accumulated)
                    for piece in self._pieces(everything):
                        accumulated = step.measure.see(accumulated, self._rows_of(piece, number)[1])
                self._known[number] = step.measure.done(accumulated)

    def _each(self, items: Any, work: Callable[[Any], Any]) -> list[Any]:
        """Do work for every item, by threads; results in the order of the items."""
        several = list(items)
        with torch.no_grad(), one_thread():
            if self._threads <= 1 or len(several) < 2:
                return [work(item) for item in several]

            def guarded(item: Any) -> Any:
                with torch.no_grad():  # a mode of the thread, not of the process
                    return work(item)

            with ThreadPoolExecutor(self._threads) as pool:
                return list(pool.map(guarded, several))
