"""Order statistics of a tensor or a model in one read of it, between two numbers that a sample gives.

Radix selection reads everything twice. Here some thousands of entries from all over say between which
two numbers a wanted one lies; one read then counts what lies below and above them, and gathers what
lies between, of which the wanted one is picked; what equals one of the two is counted and not gathered,
so that many equal entries take no room. Where there would be too much to gather, that read gathers a
share of it, a sample of those near the wanted one, and one more read is enough. The counts also tell
whether a sample was right; where none was, histograms are counted in two reads. The result is the same
and exact.

What is sampled and gathered has a room that follows from the number of entries alone
(`taskloom.merging.rooms`), so that memory is known beforehand.

A step that keeps the next largest of a tensor after one that cut the largest asks for a rank of the
same tensor, so both are answered by one read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskloom.algebra.core import Measure
from taskloom.algebra.select import Found, Radix
from taskloom.merging import rooms
from taskloom.merging.fused import RANKED, Arena, Compiled, banded, multiplied, varies
from taskloom.merging.program import Output
from taskloom.merging.slices import Piece

#: pieces of the sample of a tensor, and of a model
PIECES, SPREAD = 16, 128
#: reads between two numbers, at most, before histograms are counted
_TRIES = 3
#: share of the room that is filled where not everything is gathered; the rest is for one slice
_FILLED = 0.6
#: columns beyond the last that may be written to
SLACK = 17
#: standard deviations of the rank in the sample
_WIDE = 4.0
#: keys from here on are magnitudes that are not finite
_INFINITE = 0x7F800000
#: what the kernels order: magnitudes, variances over the experts, scores
MAGNITUDES, VARIANCES, SCORES = range(3)
Numbers = NDArray[Any]


@dataclass(frozen=True)
class Asked:
    """What is ranked, and which of it is wanted.

    Attributes
    ----------
    order
        What the kernels order.
    rows
        How many rows there are of it: the experts, or one.
    ranks
        (how many of each row have no high bits, how many there are in each) -> ranks from 1, for as
        many numbers as are wanted of every row, those of the first rank first; None where one of them
        is above all entries. The first matters for variances only, and may be 0 for others.
    """

    order: int
    rows: int
    ranks: Callable[[Numbers, int], Numbers | None]


def asked_by(
    measure: Measure, output: Output, index: int, round_: int = 0, started: Any = None
) -> Asked:
    """Return what a measure asks for that counts in two rounds from ``round_`` on."""
    varied = varies(output, index)
    order = VARIANCES if varied else SCORES if getattr(started, "scored", False) else MAGNITUDES

    def ranks(still: Numbers, numel: int) -> Numbers | None:
        radix = radix_of(second_round(measure, round_, started, still, numel))
        if radix.prefix is None or radix.rest is None or radix.beyond is None or radix.beyond.any():
            return None
        some: Numbers = np.tile(still, len(radix.rest) // len(still))
        found: Numbers = radix.rest + np.where(radix.prefix > 0, some, 0)
        return found

    return Asked(order, 1 if varied else len(output.experts), ranks)


def asked_of_band(cut: Asked, kept: Asked) -> Asked:
    """Return what both a step that cuts and the next one, which keeps of the rest, ask for.

    Of n entries c are 0 after the first step. The rank r of the second is r - c among all.
    """

    def ranks(still: Numbers, numel: int) -> Numbers | None:
        first, second = cut.ranks(still, numel), kept.ranks(still, numel)
        if first is None or second is None:
            return None
        second = second - (numel - first + 1)
        return np.concatenate([first, second]) if (second > 0).all() else None

    return Asked(cut.order, cut.rows, ranks)


def second_round(measure: Measure, round_: int, started: Any, still: Numbers, numel: int) -> Any:
    """Start the second round, as if of ``numel`` entries ``still`` had no high bits."""
    counts = np.stack([still, numel - still], 1)
    plain = started is None or isinstance(started, Radix)
    return measure.start(round_ + 1, Radix(counts) if plain else started.counted(counts, None))


def radix_of(started: Any) -> Radix:
    """Return the histogram that a round counts in."""
    found: Radix = started if isinstance(started, Radix) else started.radix
    return found


def concluded(started: Any, found: Found, largest: Numbers) -> Any:
    """Return what a measure has accumulated after the two rounds that ``started`` began."""
    plain = started is None or isinstance(started, Radix)
    return found if plain else started.found(found, largest)


def worthwhile(measure: Measure, output: Output, before: Sequence[str]) -> bool:
    """Whether entries are ordered, and the steps before do not count along the tensor.

    Of adapters many rows would be multiplied for few entries.
    """
    known = measure.count in ("magnitudes", "scores") and not {*RANKED} & {*before}
    return known and output.info.numel > 0 and not multiplied(output)


@dataclass(frozen=True)
class Likely:
    """What a sample says.

    Attributes
    ----------
    asked
        What is wanted.
    ends
        ``(R, 2)``: two numbers for each wanted one, between which it lies, almost certainly.
    most
        How many entries of a row lie between them at most, about.
    """

    asked: Asked
    ends: Numbers
    most: int

    def narrowed(self, started: Any) -> Any:
        """Return a round that need not look at scores below the ends."""
        return started.between(self.ends[:, 0]) if self.asked.order == SCORES else started


@dataclass
class Bracket:
    """Fills a room with what lies between pairs of numbers, as one thread sees it.

    Attributes
    ----------
    likely
        What is looked for.
    gathered
        ``(R, room + SLACK)``: what lies between, the last columns apart.
    stride
        One of so many is kept.
    counts
        See `Seen`.
    filled
        ``(R,)`` columns in use.
    """

    likely: Likely
    gathered: Numbers
    stride: int
    counts: Numbers
    filled: Numbers

    @classmethod
    def of(
        cls, likely: Likely, room: int, memory: Callable[[int, int], Numbers] | None = None
    ) -> Bracket:
        """Start with nothing seen, in memory that ``memory(rows, columns)`` gives."""
        rows, columns = len(likely.ends), min(likely.most, room) + SLACK
        own = np.empty((rows, columns), np.uint32) if memory is None else memory(rows, columns)
        stride = 1 if likely.most <= room else -int(-likely.most // (_FILLED * room))
        return cls(likely, own, stride, np.zeros((rows, 6), np.int64), np.zeros(rows, np.int64))

    def see(self, arena: Arena, output: Output, made: Compiled, index: int, piece: Piece) -> None:
        """Take the piece that is in the arena."""
        before = self.counts[:, 2].copy()
        self.counts[:, 2] = self.filled
        arena.between(
            output,
            made,
            piece.count,
            piece.start,
            upto=index,
            order=self.likely.asked.order,
            ends=self.likely.ends,
            into=self.gathered,
            found=self.counts,
        )
        found = self.counts[:, 2] - self.filled
        self.counts[:, 2] = before + found
        room = self.gathered.shape[1] - SLACK
        for row, (seen, new) in enumerate(zip(before, found, strict=True)):
            start = int(self.filled[row])
            stop = min(start + int(new), room)
            if self.stride > 1:
                kept = self.gathered[row, start + int(-seen % self.stride) : stop : self.stride]
                stop = start + len(kept)
                self.gathered[row, start:stop] = kept
            self.filled[row] = stop

    def seen(self) -> Seen:
        """Return what was seen."""
        rows = [[row[: int(n)]] for row, n in zip(self.gathered, self.filled, strict=True)]
        return Seen(self.counts, rows)


@dataclass
class Seen:
    """What was found of pairs of numbers between which the wanted ones lie.

    Attributes
    ----------
    counts
        ``(R, 6)``: how many lie below the first, equal it, and lie between the two; of the first rows
        also how many have no high bits (of variances), and the largest of all; how many equal the
        second.
    rows
        What lies between, or a share of it, in parts.
    """

    counts: Numbers
    rows: list[list[Numbers]]

    def join(self, other: Seen) -> Seen:
        """Return what both have seen."""
        counts = self.counts + other.counts
        counts[:, 4] = np.maximum(self.counts[:, 4], other.counts[:, 4])
        return Seen(counts, [[*a, *b] for a, b in zip(self.rows, other.rows, strict=True)])

    def picked(self, likely: Likely, total: int) -> Found | None:
        """Return the wanted numbers of ``total`` entries; None if not everything was gathered."""
        ranks = self._ranks(likely, total)
        if ranks is None:
            return None
        several = zip(ranks, self.counts, likely.ends, self.rows, strict=True)
        picked = [_pick(int(rank), found, ends, parts) for rank, found, ends, parts in several]
        known = [each for each in picked if each is not None]
        return _found(known) if len(known) == len(picked) else None

    def refined(self, likely: Likely, total: int) -> Likely | None:
        """Say more closely where the wanted numbers lie; None if they do not lie between the ends."""
        ranks = self._ranks(likely, total)
        if ranks is None:
            return None
        ends, most = np.zeros_like(likely.ends), 0
        for row, rank in enumerate(ranks):
            found = _closer(int(rank), self.counts[row], likely.ends[row], self.rows[row])
            if found is None:
                return None
            ends[row], inside = found
            most = max(most, inside)
        return Likely(likely.asked, ends, most)

    def _ranks(self, likely: Likely, total: int) -> Numbers | None:
        asked = likely.asked
        ranks = asked.ranks(self.counts[: asked.rows, 3], total)
        return None if ranks is None or _odd(asked, ranks, self.counts[:, 4]) else ranks


def search(
    likely: Likely, total: int, read: Callable[[Likely, bool], Seen]
) -> tuple[Found, Numbers] | None:
    """Return the wanted numbers of ``total`` entries and the largest ones; None if samples were wrong.

    ``read`` sees everything, given what is looked for and whether it is a read that nobody expects.
    """
    now: Likely | None = likely
    for number in range(_TRIES):
        if now is None:
            return None
        seen = read(now, number > 1)
        found = seen.picked(now, total)
        if found is not None:
            return found, seen.counts[:, 4]
        now = seen.refined(now, total)
    return None


def of_tensor(
    output: Output,
    index: int,
    arena: Arena,
    made: Compiled,
    pieces: Sequence[Piece],
    read: Callable[[Sequence[Piece]], None],
) -> dict[int, tuple[Measure, Found]]:
    """Return what the rounds of a step's measure would have found, and perhaps those of the next one.

    By index of the step; nothing if the sample was wrong.

    Parameters
    ----------
    index
        Of a step whose measure is `worthwhile`.
    arena
        Its buffers hold pieces, one after the other, after ``read``.
    made
        The steps; those before ``index`` are taken first.
    pieces
        The whole tensor.
    read
        Brings pieces into the arena.
    """
    steps = output.chain.steps if output.chain is not None else ()
    measure = steps[index].slicewise
    if measure is None:
        return {}
    asked = asked_by(measure, output, index)
    after = steps[index + 1].slicewise if banded(steps, index) else None
    if after is not None:
        both = asked_of_band(asked, asked_by(after, output, index + 1))
        found = _searched(both, arena, output, made, index, pieces, read)
        if found is not None:
            first, second = _band(found, asked.rows)
            return {index: (measure, first), index + 1: (after, second)}
    found = _searched(asked, arena, output, made, index, pieces, read)
    return {} if found is None else {index: (measure, found)}


def _searched(
    asked: Asked,
    arena: Arena,
    output: Output,
    made: Compiled,
    index: int,
    pieces: Sequence[Piece],
    read: Callable[[Sequence[Piece]], None],
) -> Found | None:
    """Return what is wanted of a tensor; None if the sample was wrong."""
    numel = output.info.numel
    if len(pieces) == 1 and numel <= rooms.LEAST:
        into = arena.room(asked.rows, numel)[:, :numel]
        read(pieces)
        arena.sample(output, made, numel, 0, upto=index, order=asked.order, into=into, at=0)
        return _sorted(asked, into)
    room = rooms.of_tensor(numel)
    arena.room(2 * asked.rows, room + SLACK)  # once for all; what is not written takes no memory
    length = min(rooms.sample_size(numel, room) // PIECES, arena.elements, numel // PIECES)
    if not length:
        return None
    starts = [number * (numel // PIECES) for number in range(PIECES)]
    sampled = arena.room(asked.rows, PIECES * length)
    sample(asked, arena, output, made, index, starts, length, sampled, 0, read)
    said = likely(asked, sampled, PIECES, numel)
    if said is None:
        return None

    def seen(said: Likely, _: bool) -> Seen:
        bracket = Bracket.of(said, room, arena.room)
        for piece in pieces:
            read([piece])
            bracket.see(arena, output, made, index, piece)
        return bracket.seen()

    found = search(said, numel, seen)
    return None if found is None else found[0]


def sample(
    asked: Asked,
    arena: Arena,
    output: Output,
    made: Compiled,
    index: int,
    starts: Sequence[int],
    length: int,
    into: Numbers,
    at: int,
    read: Callable[[Sequence[Piece]], None],
) -> int:
    """Write pieces of a tensor into ``into[:, at:]``, as many at a time as the arena holds.

    Return where the next would go. To the steps before they are one piece; what they do elsewhere in
    the tensor is as good a sample.
    """
    numel, several = output.info.numel, max(1, arena.elements // length)
    for first in range(0, len(starts), several):
        taken = [
            Piece(s, min(s + length, numel), (min(length, numel - s),))
            for s in starts[first : first + several]
        ]
        read(taken)
        count = sum(piece.count for piece in taken)
        arena.sample(
            output, made, count, taken[0].start, upto=index, order=asked.order, into=into, at=at
        )
        at += count
    return at


def places(numels: Sequence[int], total: int) -> Iterator[tuple[list[int], int]]:
    """Yield for each tensor of a model where pieces of its sample start, and how long they are.

    >>> list(places([1 << 20, 1 << 10], (1 << 20) + (1 << 10)))[1]
    ([], 128)
    """
    stride, seen = max(1, total // SPREAD), 0
    length = max(1, min(rooms.sample_size(total, rooms.of_model(total)) // SPREAD, stride))
    for numel in numels:
        yield list(range(-seen % stride, numel, stride)), length
        seen += numel


def _sorted(asked: Asked, rows: Numbers) -> Found | None:
    """Return the wanted numbers of a tensor whose entries are all there."""
    numel = rows.shape[1]
    ranks = asked.ranks(_still(asked, rows), numel)
    if ranks is None or _odd(asked, ranks, rows):
        return None
    none, ends = np.array([0, 0, numel, 0, 0, 0]), np.zeros(2, np.int64)
    picked = [_pick(int(r), none, ends, [rows[k % len(rows)]]) for k, r in enumerate(ranks)]
    return _found([each for each in picked if each is not None])


def _odd(asked: Asked, ranks: Numbers, keys: Numbers) -> bool:
    """Whether something is not finite, which times 0 is not 0: a step that cuts leaves it."""
    return len(ranks) > asked.rows and asked.order == MAGNITUDES and int(keys.max()) >= _INFINITE


def _found(picked: list[tuple[int, int]]) -> Found:
    keys, missing = np.array(picked, np.int64).reshape(-1, 2).T
    return Found(keys, missing)


def likely(asked: Asked, sampled: Numbers, pieces: int, total: int) -> Likely | None:
    """Say where the wanted numbers lie among ``total`` entries, of which a sample is given.

    How far apart the ends are follows from how much the pieces of the sample differ. None where a
    rank is above all entries.
    """
    from taskloom.merging.nth import around

    rows, size = sampled.shape
    ranks = asked.ranks(_still(asked, sampled), size)
    if ranks is None:
        return None
    ends, most = np.zeros((len(ranks), 2), np.int64), 0
    for k, row in enumerate(sampled):
        own = np.zeros((len(ranks) // rows, 2), np.int64)
        inside = around(row, pieces, ranks[k::rows], _WIDE, own)
        ends[k::rows] = own
        most = max(most, int(1.25 * inside / size * total) + 1024)
    return Likely(asked, ends, most)


def _still(asked: Asked, keys: Numbers) -> Numbers:
    """Count what has no high bits, where ranks depend on it."""
    if asked.order != VARIANCES:
        return np.zeros(len(keys), np.int64)
    still: Numbers = (keys < 1 << 16).sum(1)
    return still


def _pick(rank: int, found: Numbers, ends: Numbers, parts: Sequence[Numbers]) -> tuple[int, int] | None:
    """Return the entry of a rank, and how many equal to it are not below that rank."""
    first, last = (int(end) for end in ends)
    left, low, inside, high = _left(rank, found)
    if left <= 0:
        return None
    if left <= low:
        return first, low - left + 1
    left -= low
    if left > inside:
        left -= inside
        return (last, high - left + 1) if left <= high else None
    if sum(len(part) for part in parts) < inside:
        return None
    from taskloom.merging.nth import nth

    limit, less, equal = nth(_whole(parts), left)
    return int(limit), int(equal - (left - less) + 1)


def _closer(
    rank: int, found: Numbers, ends: Numbers, parts: Sequence[Numbers]
) -> tuple[Numbers, int] | None:
    """Return two numbers nearer to the entry of a rank, and how many lie between them, about."""
    from taskloom.merging.nth import around

    left, low, inside, high = _left(rank, found)
    if not 0 < left <= low + inside + high:
        return None
    if not low < left <= low + inside:
        return np.full(2, ends[0] if left <= low else ends[1]), 0
    keys, own = _whole(parts), np.zeros((1, 2), np.int64)
    if not len(keys):
        return None
    at = min(max(round((left - low) / inside * len(keys)), 1), len(keys))
    between = around(keys, 1, np.array([at]), _WIDE, own)
    nearer: Numbers = np.clip(own[0], ends[0], ends[1])
    return nearer, int(1.25 * between / len(keys) * inside) + 1024


def _left(rank: int, found: Numbers) -> tuple[int, int, int, int]:
    """Return a rank less what lies below; how many equal the first, lie between, equal the last."""
    return rank - int(found[0]), int(found[1]), int(found[2]), int(found[5])


def _whole(parts: Sequence[Numbers]) -> Numbers:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _band(both: Found, rows: int) -> tuple[Found, Found]:
    """Return what a step that cuts and the next one, which keeps of the rest, need to know.

    Where their limits are one number, entries equal to it that were cut are not there to be kept.
    """
    first = Found(both.keys[:rows], both.missing[:rows])
    keys, missing = both.keys[rows:], both.missing[rows:]
    return first, Found(keys, np.where(keys == first.keys, missing - first.missing, missing))
