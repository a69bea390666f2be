"""How many numbers are sampled or gathered at a time to find an order statistic: known from headers."""

from __future__ import annotations

#: entries of the smallest sample
SAMPLE = 1 << 14
#: one entry of so many is in the sample of what is large, up to the room
SHARE = 64
#: entries of the largest tensor that is sorted, where it is one slice, of the smallest model sampled,
#: and of the smallest room
LEAST = 1 << 16
#: entries of the largest room of a tensor that is read once, and of a model
ROOM, MOST = 1 << 19, 1 << 18
#: entries of the largest model that the smallest room is for
_SMALL = 1 << 28


def of_model(total: int) -> int:
    """Return how many numbers of an expert are sampled or gathered at a time for a model's threshold.

    Two reads are then enough up to five billion entries.

    >>> [of_model(1 << power) for power in (20, 28, 30, 40)]
    [65536, 65536, 131072, 262144]
    """
    room = LEAST
    while room < MOST and total > _SMALL * (room // LEAST) ** 2:
        room *= 2
    return room


def of_tensor(numel: int) -> int:
    """Return the same for a tensor, whose threads each have a room: one read where that is not too much.

    >>> [of_tensor(n) for n in (1 << 20, 1 << 24, 1 << 30)]
    [65536, 165140, 131072]
    """
    room = max(LEAST, int((4 * numel) ** (2 / 3)))
    return room if room <= ROOM else of_model(numel)


def sample_size(numel: int, room: int) -> int:
    """Return how many entries are sampled, about."""
    return min(max(SAMPLE, numel // SHARE), room)


def held(numel: int, room: int) -> int:
    """Return how many numbers of an expert are in memory at a time, about: sampled, or gathered.

    The latter are those within four standard deviations of a rank that a fifth lies above, and a
    quarter more.
    """
    size = sample_size(numel, room)
    return min(numel, room, max(size, int(4 * numel / size**0.5) + 1024))
