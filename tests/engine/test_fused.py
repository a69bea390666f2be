"""The fused kernels give the bits of the plain steps, for any chain, dtype, slice and thread."""

import hashlib
import itertools

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from taskloom.algebra import chain, cut, drop, elect, interpolate_sphere, keep, mean, scale, total, weigh
from taskloom.algebra.fuse import fuse
from taskloom.algebra.random import uniform_bits
from taskloom.algebra.rank import drop_by_rank
from taskloom.algebra.sphere import arc
from taskloom.algebra.stock import stock

from .models import run, save_pool

pytest.importorskip("numba")

KINDS = [torch.bfloat16, torch.float16, torch.float32, torch.float8_e4m3fn, torch.float8_e5m2]
OUT = [None, torch.bfloat16, torch.float16, torch.float32]


@pytest.fixture(scope="module")
def pools(tmp_path_factory):
    """One pool for each way of mixing dtypes."""
    folder = tmp_path_factory.mktemp("pools")
    mixes = [(kind,) for kind in KINDS[:3]] + [(torch.bfloat16, torch.float32, *KINDS[3:])]
    mixes += [(torch.float16, torch.bfloat16)]
    return [save_pool(folder / str(i), dtypes=mix) for i, mix in enumerate(mixes)]


share = st.sampled_from([0.0, 0.1, 0.2, 0.5, 0.9, 1.0])
weights = st.none() | st.lists(st.sampled_from([0.0, -1.0, 0.3, 1.0, 2.5]), min_size=3, max_size=3)


@st.composite
def chains(draw):
    """Sparsify, resolve, weigh, aggregate, scale: in any composition."""
    scope = st.sampled_from(["row", "tensor", "model"])
    head = draw(
        st.lists(
            st.one_of(
                st.builds(keep, share, scope, extra=st.sampled_from([0, 1])),
                st.builds(cut, share, st.sampled_from(["row", "tensor"])),
                st.builds(drop, share, rescale=st.booleans(), seed=st.integers(0, 9)),
                st.builds(scale, st.sampled_from([0.3, -2.0])),
                weights.filter(bool).map(weigh),
                st.builds(elect, st.sampled_from(["zero", "plus", "majority"]), weights),
            ),
            max_size=3,
        )
    )
    positive = st.none() | st.just([0.5, 1.0, 0.25])
    tail = draw(
        st.one_of(
            st.just(total()),
            st.builds(mean, st.just("all"), positive),
            st.builds(mean, st.just("all"), weights, normalize=st.just(False)),
            st.builds(mean, st.just("kept"), weights),
        )
    )
    return chain(*head, tail, scale(draw(st.sampled_from([1.0, 0.3]))), space=draw(SPACE))


SPACE = st.sampled_from(["delta", "weight"])


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    composed=chains(),
    which=st.integers(0, 4),
    dtype=st.sampled_from(OUT),
    elements=st.sampled_from([1, 7, 64, 1 << 18]),
    threads=st.sampled_from([1, 3]),
)
def test_any_chain(pools, composed, which, dtype, elements, threads):
    base, experts = pools[which]
    dtype = dtype or (torch.bfloat16 if which == 3 else None)
    plain = run(base, experts, composed, dtype=dtype, fused=False)
    fused = run(base, experts, composed, dtype=dtype, slice_bytes=4 * elements, threads=threads)
    sliced = run(base, experts, composed, dtype=dtype, slice_bytes=4 * elements, fused=False)
    for name, expected in plain.items():
        assert fused[name] == expected, (str(composed), name)
        assert sliced[name] == expected, (str(composed), name)


def test_random_numbers_are_numpys():
    from taskloom.merging import blocks

    key = np.frombuffer(hashlib.sha256(b"3\0w\0a").digest()[:16], np.uint64)
    for start, count in itertools.product([0, 1, 7, 8, 4093, 1 << 35], [1, 5, 8, 100, 160, 512, 1300]):
        out = np.zeros(count, np.uint32)
        blocks._philox(key[0], key[1], start, count, out)
        assert np.array_equal(out, uniform_bits(3, "w", "a", start, count).numpy())


SPHERES = {
    "slerp": chain(interpolate_sphere(0.4, threshold=1.0), space="weight", experts=(2, 2)),
    "nuslerp": chain(arc(0.3), experts=(2, 2)),
    "stock": chain(stock(), experts=(2, None)),
    "stock of mergekit": chain(stock(clamp=True, floor=1e-6), experts=(2, None)),
    "della": chain(drop_by_rank(0.5, 0.1, seed=4), total()),
    "breadcrumbs": chain(cut(0.05, "row"), keep(0.4, "row"), total()),
    "breadcrumbs of all": chain(cut(0.1, "row"), keep(0.95, "row"), total()),
    "sce": fuse(0.3),
    "sce of all": fuse(1.0),
    "sce of mergekit": fuse(0.3, "mergekit"),
    "sce after ties": chain(keep(0.5, "tensor"), fuse(0.3)),
    "della, no rescale": chain(drop_by_rank(0.5, 0.1, rescale=False, seed=4), mean("kept")),
}
LONG = {"long": (9001,), "wide": (3, 5000), "short": (7, 3), "scalar": (), "empty": (0, 4)}


@pytest.fixture(scope="module")
def long_pools(tmp_path_factory):
    """Tensors of several blocks, also with many equal magnitudes."""
    folder = tmp_path_factory.mktemp("long")
    return {
        (kind, coarse): save_pool(
            folder / f"{kind}{coarse}", count=2, dtypes=(kind,), shapes=LONG, coarse=coarse
        )
        for kind in (torch.bfloat16, torch.float32)
        for coarse in (True, False)
    }


@pytest.mark.parametrize("coarse", [True, False])
@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("name", SPHERES)
def test_steps_that_measure_or_rank(long_pools, name, kind, coarse):
    base, experts = long_pools[kind, coarse]
    plain = run(base, experts, SPHERES[name], fused=False)
    for how in ({}, {"slice_bytes": 4}, {"slice_bytes": 40000, "threads": 2}):
        assert run(base, experts, SPHERES[name], **how) == plain, how
        assert run(base, experts, SPHERES[name], fused=False, **how) == plain, how


@settings(max_examples=200, deadline=None)
@given(
    row=st.lists(
        st.integers(0, 0x7F7FFFFF) | st.sampled_from([0, 1, 0x3A000000]), min_size=1, max_size=90
    ),
    shift=st.sampled_from([0, 9, 16]),
    guess=st.integers(0, 0x7FFFFFFF),
    data=st.data(),
)
def test_ranks_and_limits_of_a_row(row, shift, guess, data):
    from taskloom.merging import blocks

    sizes = np.array(row, np.uint32) >> shift << shift
    count, n = data.draw(st.integers(1, len(row))), len(row)
    limit, left = blocks._row_limit(sizes, n, sizes.max(), count, np.uint32(guess))
    place = blocks._place(sizes, n, limit, left)
    marked = np.ones(n, np.float32)
    blocks._mark(marked, sizes, n, limit, place, np.float32(1), np.float32(0))
    order = np.argsort(-sizes.astype(np.int64), kind="stable")
    assert sorted(np.flatnonzero(marked)) == sorted(order[:count])
    ranks = np.zeros(n, np.float32)
    one, other, many = np.empty(n, np.uint64), np.empty(n, np.uint64), np.empty((3, 2048), np.int32)
    blocks._ranks(sizes, n, np.empty(n, np.uint32), one, other, many, ranks)
    assert np.array_equal(np.argsort(sizes, kind="stable"), np.argsort(ranks))


def rounded(numbers):
    """Float32 numbers that bfloat16 holds."""
    return torch.from_numpy(numbers).bfloat16().float().numpy()


def changes(n, *, spread=0.002, unchanged=0.0, seed=0):
    """A row of differences of numbers of bfloat16, as fine-tuning makes them."""
    draw = np.random.default_rng(seed)
    base = rounded(draw.standard_normal(n, np.float32) * np.float32(0.02))
    expert = rounded(base + draw.standard_normal(n, np.float32) * np.float32(spread))
    return np.where(draw.random(n) < unchanged, np.float32(0), expert - base)


def even_ranks(row):
    from taskloom.merging import blocks

    n, sizes = len(row), np.abs(row).view(np.uint32)
    keys, order = np.empty(n, np.uint32), np.empty(n, np.uint32)
    counts, starts, ranks = np.empty(8192, np.uint16), np.empty(8224, np.uint16), np.empty(n, np.uint16)
    done = blocks._even_ranks(sizes, n, keys, counts, starts, order, ranks)
    return ranks if done else None


@pytest.mark.parametrize("n", [64, 100, 768, 3072, 5000, 32768])
@pytest.mark.parametrize("unchanged", [0.0, 0.6])
def test_even_ranks_of_a_row(n, unchanged):
    for seed, spread in enumerate([0.002, 0.0005, 0.05]):
        row = changes(n, spread=spread, unchanged=unchanged, seed=seed)
        ranks = even_ranks(row)
        assert ranks is not None or spread == 0.05  # of which many lie between two steps
        if ranks is not None:
            assert np.array_equal(np.argsort(np.abs(row), kind="stable"), np.argsort(ranks))


def test_what_lies_between_two_steps_is_put_in_order():
    """Up to a quarter of a row, also where all of it falls between the same two."""
    row = changes(1000)
    row[::5] = np.float32(0.001) + np.random.default_rng(1).random(200, np.float32) * np.float32(1e-6)
    assert np.array_equal(np.argsort(np.abs(row), kind="stable"), np.argsort(even_ranks(row)))


@pytest.mark.parametrize("scale", [2.0**-130, 2.0**-90, 1.0, 2.0**14, 2.0**20, 2.0**100])
def test_even_ranks_of_any_size(scale):
    row = changes(500) * np.float32(scale)
    ranks = even_ranks(row)
    assert (ranks is None) == (scale in {2.0**-130, 2.0**20, 2.0**100})
    if ranks is not None:
        assert np.array_equal(np.argsort(np.abs(row), kind="stable"), np.argsort(ranks))


def test_other_rows_are_left_to_the_sort():
    draw = np.random.default_rng(0)
    assert even_ranks(draw.standard_normal(1000, np.float32)) is None
    assert even_ranks(np.zeros(1000, np.float32)) is None
    assert even_ranks(changes(63)) is None
    assert even_ranks(changes(40000)) is None
    assert even_ranks(np.append(changes(999), np.float32(np.inf))) is None


def test_rows_that_are_counted_and_rows_that_are_sorted_give_the_same(tmp_path):
    shapes = {"wide": (5, 1500), "tall": (40, 100), "scalar": ()}
    steps = chain(drop_by_rank(0.7, 0.07, seed=2), elect("plus"), mean("kept"))
    tiny = chain(drop_by_rank(0.01, 0.009, seed=2), total())  # chances that are no multiples of 2**-31
    high = chain(drop_by_rank(0.9, 0.0999999, seed=2), total())
    for number, kind in enumerate([torch.bfloat16, torch.float32, torch.float16]):
        base, experts = save_pool(tmp_path / str(number), dtypes=(kind,), shapes=shapes)
        for each in (steps, tiny, high):
            plain = run(base, experts, each, fused=False)
            for how in ({}, {"slice_bytes": 4000, "threads": 2}):
                assert run(base, experts, each, **how) == plain, (kind, str(each))


@settings(max_examples=200, deadline=None)
@given(
    row=st.lists(st.integers(0, 6), min_size=1, max_size=60),
    high=st.integers(0, 7),
    low=st.integers(0, 7),
    left=st.tuples(st.integers(-3, 20), st.integers(-3, 20)),
    negative=st.integers(0, (1 << 60) - 1),
)
def test_limits_of_a_tensor(row, high, low, left, negative):
    """What is kept, what is cut, and both at once, counted entry by entry."""
    from taskloom.merging import blocks

    signs = np.array([-1.0 if negative >> i & 1 else 1.0 for i in range(len(row))], np.float32)
    x = np.array(row, np.float32) * signs
    limits = np.array([high, low], np.float32).view(np.uint32)

    def marked(values, limit, count):
        found = np.abs(values) > limit
        equal = np.flatnonzero(np.abs(values) == limit)
        found[equal[: max(count, 0)]] = True
        return found

    for cuts in (True, False):
        out, wanted = x.copy(), marked(x, high, left[0])
        equal = blocks._limited(out, len(x), limits[0], left[0], cuts)
        assert np.array_equal(out, np.where(wanted != cuts, x, 0))
        assert equal == ((np.abs(x) == high).sum() if left[0] > 0 else 0)
    if low < high:
        out, rest = x.copy(), np.where(marked(x, high, left[0]), np.float32(0), x)
        counted = blocks._banded(out, len(x), limits[0], left[0], limits[1], left[1])
        assert np.array_equal(out, np.where(marked(rest, low, left[1]), rest, 0))
        assert counted[0] == ((np.abs(x) == high).sum() if left[0] > 0 else 0)
        assert low == 0 or counted[1] == ((np.abs(x) == low).sum() if left[1] > 0 else 0)
