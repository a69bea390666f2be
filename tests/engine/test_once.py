"""Order statistics of a tensor found in one read are those that two reads find."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from taskloom.algebra import chain, cut, elect, keep, mean, total, weigh
from taskloom.algebra.compete import compete
from taskloom.algebra.fuse import fuse
from taskloom.algebra.layers import prune_layers
from taskloom.merging import fused, once, rooms

from .models import run, save_pool

pytest.importorskip("numba")
from taskloom.merging.nth import around, nth


def shrink(monkeypatch, **constants):
    """Make samples, rooms and what is worth them small enough for these tensors."""
    for name, value in constants.items():
        monkeypatch.setattr(rooms if hasattr(rooms, name) else once, name, value)


LONG = {"long": (9001,), "wide": (3, 5000), "short": (7, 3), "scalar": (), "empty": (0, 4)}


@pytest.fixture(scope="module")
def long_pools(tmp_path_factory):
    """Tensors of several blocks, also with many equal magnitudes."""
    folder = tmp_path_factory.mktemp("long")
    return {
        (kind, coarse): save_pool(
            folder / f"{kind}{coarse}", count=2, dtypes=(kind,), shapes=LONG, coarse=coarse
        )
        for kind, coarse in [(torch.bfloat16, True), (torch.bfloat16, False), (torch.float32, False)]
    }


SORTED = {
    "ties": chain(keep(0.3, "tensor"), elect(), mean("kept")),
    "most": chain(cut(0.95, "tensor"), total()),
    "band": chain(cut(0.1, "tensor"), keep(0.2, "tensor"), total()),
    "weighed band": chain(weigh([2.0, -1.0]), cut(0.3, "tensor"), keep(0.3, "tensor"), total()),
    "all of the rest": chain(cut(0.4, "tensor"), keep(0.9, "tensor"), total()),
    "weighed": chain(weigh([1.0, -2.0]), keep(0.5, "tensor"), total()),
    "sce": fuse(0.3),
    "sce of little": fuse(0.001),
}


@pytest.mark.parametrize("coarse", [True, False])
@pytest.mark.parametrize("name", SORTED)
def test_one_read_finds_what_two_find(long_pools, monkeypatch, name, coarse):
    base, experts = long_pools[torch.bfloat16, coarse]
    plain = run(base, experts, SORTED[name], fused=False)
    shrink(monkeypatch, SAMPLE=1 << 12, PIECES=4, LEAST=8000)
    found = []
    inner = once._searched
    monkeypatch.setattr(once, "_searched", lambda *a: found.append(inner(*a)) or found[-1])
    for how in ({}, {"slice_bytes": 20000, "threads": 2}):
        assert run(base, experts, SORTED[name], **how) == plain, how
    assert len(found) >= 4
    assert any(each is not None for each in found) or name in {"sce of little", "most"}


def test_a_band_is_found_in_one_read(long_pools, monkeypatch):
    """Nothing is counted in rounds, though the second step ranks what the first leaves."""
    base, experts = long_pools[torch.float32, False]
    shrink(monkeypatch, SAMPLE=1 << 12, PIECES=4, LEAST=8000)
    monkeypatch.setattr(fused.Arena, "count", None)
    run(base, experts, chain(cut(0.1, "tensor"), keep(0.2, "tensor"), total()))


def test_infinity_is_not_cut(tmp_path):
    """Where it is let through, 0 times infinity is no 0, and the two steps are measured in turn.

    Steps in torch on slices say what is right: on a whole tensor they rank NaN otherwise.
    """
    base, experts = save_pool(tmp_path, count=2, shapes=LONG, dtypes=(torch.float32,))
    weights = load_file(experts[0] / "model.safetensors")
    weights["long"][::100] = torch.inf
    save_file(weights, experts[0] / "model.safetensors")
    steps = chain(cut(0.1, "tensor"), keep(0.2, "tensor"), total())
    plain = run(base, experts, steps, fused=False, nan="allow", slice_bytes=8000)
    assert run(base, experts, steps, nan="allow") == plain


WHOLE = {
    "ties": chain(keep(0.3), elect(), mean("kept")),
    "weighed": chain(weigh([1.0, -2.0]), keep(0.5), total()),
    "pcb": chain(compete(0.1)),
    "vision": chain(compete(0.3, 0.01, weights=[1.0, 0.5], cross="vision")),
    "nearly all": chain(compete(0.95)),
}


@pytest.mark.parametrize("how", [{}, {"threads": 2, "slice_bytes": 20000}, {"workers": 2}])
@pytest.mark.parametrize("name", WHOLE)
def test_a_model_is_read_once(long_pools, monkeypatch, name, how):
    base, experts = long_pools[torch.bfloat16, name != "pcb"]
    plain = run(base, experts, WHOLE[name], fused=False)
    shrink(monkeypatch, SAMPLE=1 << 12, SPREAD=16, LEAST=8000)
    found = []
    inner = once.search
    monkeypatch.setattr(once, "search", lambda *a: found.append(inner(*a)) or found[-1])
    assert run(base, experts, WHOLE[name], **how) == plain
    assert len(found) == (2 if "compete" in str(WHOLE[name]) else 1)
    assert any(each is not None for each in found)


@pytest.mark.parametrize("name", ["ties", "pcb"])
@pytest.mark.parametrize("constants", [{"_WIDE": -2.0}, {"_TRIES": 0}])
def test_a_wrong_sample_or_no_try_changes_nothing(long_pools, monkeypatch, name, constants):
    base, experts = long_pools[torch.float32, False]
    plain = run(base, experts, WHOLE[name], fused=False)
    shrink(monkeypatch, SAMPLE=1 << 9, SPREAD=8, LEAST=8000, **constants)
    assert run(base, experts, WHOLE[name]) == plain


@pytest.mark.parametrize("how", [{}, {"threads": 2, "slice_bytes": 8000}, {"workers": 2}])
@pytest.mark.parametrize("name", [*WHOLE, "layers"])
def test_a_small_room_costs_a_read(long_pools, monkeypatch, name, how):
    """A share of what lies near is gathered first, and nothing is counted in bins."""
    layers = chain(prune_layers(0.5, layers="tensor"), keep(0.2), elect(), mean("kept"))
    steps = WHOLE.get(name, layers)
    base, experts = long_pools[torch.float32, False]
    plain = run(base, experts, steps, fused=False)
    shrink(monkeypatch, SAMPLE=1 << 9, SPREAD=8, LEAST=3000, MOST=3000)
    reads = []
    inner = once.Seen.picked
    monkeypatch.setattr(once.Seen, "picked", lambda *a: reads.append(inner(*a)) or reads[-1])
    monkeypatch.setattr(fused.Arena, "count", None)
    assert run(base, experts, steps, **how) == plain
    assert reads[-1] is not None
    assert any(found is None for found in reads)


@pytest.mark.parametrize("name", ["ties", "band", "sce"])
def test_a_small_room_for_a_tensor(long_pools, monkeypatch, name):
    base, experts = long_pools[torch.float32, False]
    plain = run(base, experts, SORTED[name], fused=False)
    shrink(monkeypatch, SAMPLE=1 << 9, PIECES=4, LEAST=2200, MOST=2200, ROOM=0)
    made = []
    inner = once.Bracket.of
    monkeypatch.setattr(once.Bracket, "of", lambda *a: made.append(inner(*a)) or made[-1])
    monkeypatch.setattr(fused.Arena, "count", None)
    assert run(base, experts, SORTED[name]) == plain
    assert any(bracket.stride > 1 for bracket in made)
    assert all((bracket.filled <= 2200).all() for bracket in made)


def test_what_equals_an_end_takes_no_room(long_pools, monkeypatch):
    """Of whole numbers, all that lie near the wanted one equal one of two."""
    base, experts = long_pools[torch.bfloat16, True]
    plain = run(base, experts, SORTED["ties"], fused=False)
    shrink(monkeypatch, SAMPLE=1 << 12, PIECES=4, LEAST=8000)
    made = []
    inner = once.Bracket.of
    monkeypatch.setattr(once.Bracket, "of", lambda *a: made.append(inner(*a)) or made[-1])
    assert run(base, experts, SORTED["ties"]) == plain
    assert made
    for bracket in made:
        first, last = bracket.likely.ends.T
        assert (bracket.counts[:, 1] > 0).all()
        assert ((bracket.counts[:, 5] > 0) == (last > first)).all()


def test_every_listener_hears_of_all_reads(long_pools, monkeypatch):
    base, experts = long_pools[torch.bfloat16, False]
    shrink(monkeypatch, LEAST=8000)
    heard = []
    run(base, experts, WHOLE["ties"], progress=lambda label, done, total: heard.append((done, total)))
    assert heard[-1][0] == heard[-1][1] == len(heard)


@pytest.mark.parametrize("kind", ["few", "wide", "equal", "largest"])
def test_any_rank(kind):
    draw = np.random.default_rng(0)
    keys = {
        "few": draw.integers(0, 30, 200, dtype=np.uint32) * np.uint32(1000),
        "wide": draw.integers(0, 1 << 32, 200, dtype=np.uint32),
        "equal": np.full(5, 7, np.uint32),
        "largest": np.array([0xFFFFFFFF, 0xFFFFFFF0, 0x7FFFFFFF, 0, 0xFFFFFFFF], np.uint32),
    }[kind]
    for rank, wanted in enumerate(np.sort(keys), 1):
        assert nth(keys, rank) == (wanted, (keys < wanted).sum(), (keys == wanted).sum())


def test_a_wrong_sample_costs_a_read_and_nothing_else(long_pools, monkeypatch):
    base, experts = long_pools[torch.float32, False]
    plain = run(base, experts, SORTED["ties"], fused=False)
    shrink(monkeypatch, SAMPLE=1 << 5, PIECES=2, LEAST=8000, _WIDE=-2.0)
    assert run(base, experts, SORTED["ties"]) == plain


@pytest.mark.parametrize("kind", ["float", "few", "equal", "sorted", "short"])
def test_numbers_around_a_rank(kind):
    draw = np.random.default_rng(0)
    size = 20 if kind == "short" else 1 << 14
    keys = np.abs(draw.standard_normal(size, np.float32)).view(np.uint32)
    if kind == "few":
        keys &= np.uint32(0xFFF00000)
    elif kind == "equal":
        keys[:] = 5
    elif kind == "sorted":  # pieces of the sample that differ
        keys.sort()
    ordered = np.sort(keys)
    wanted = [1, size // 3, int(0.999 * size), size]
    ends = np.zeros((len(wanted), 2), np.int64)
    most = around(keys, 16, np.array(wanted), 4.0, ends)
    inside = [((keys > low) & (keys < high)).sum() for low, high in ends]
    assert most == max(inside)
    for rank, (low, high) in zip(wanted, ends, strict=True):
        margin = int(4 * np.sqrt(rank * (size - rank) / size) + 8)
        least = ordered[rank - margin - 1] if rank > margin else 0
        assert low <= least
        assert high >= (ordered[rank + margin - 1] if rank + margin <= size else 0xFFFFFFFF)
        if kind in {"float", "few"}:  # little more than independent entries ask for
            assert low >= (ordered[max(rank - 3 * margin, 1) - 1] if rank > 3 * margin else 0)
        if kind == "sorted" and rank == size // 3:
            assert low < least


def test_scores_above_what_is_wanted_are_left_out_but_for_the_largest():
    """The bounds hold for scores of any size: what is left out lies above, and is not the largest."""
    from taskloom.merging import blocks

    draw, n = np.random.default_rng(0), 4000
    for rows, spread in [(2, 0.01), (4, 0.3), (16, 1.0)]:
        values = draw.standard_normal((rows, n), np.float32) * np.float32(spread)
        wide, places = np.empty((4, n + 64)), np.empty(n + 1, np.uint32)
        wide[0, :n] = values.astype(np.float64).sum(0)
        low, high = np.float32(1e-3 * spread), np.float32(3 * spread)
        far = np.float32(np.inf)
        count, above = blocks._scores(values[0], rows, n, low, high, -far, far, far, wide, places)
        assert (count, above) == (n, 0)
        scores = wide[1, :n].astype(np.float32)
        cutoff, upper, most = np.sort(scores)[[int(0.8 * n), int(0.85 * n), int(0.99 * n)]]
        count, above = blocks._scores(values[0], rows, n, low, high, cutoff, upper, most, wide, places)
        kept = places[:count]
        assert np.array_equal(wide[1, :count].astype(np.float32), scores[kept])
        out = np.setdiff1d(np.arange(n), kept)
        assert not ((scores[out] >= cutoff) & (scores[out] <= upper)).any()
        assert (scores[out] > upper).sum() == above > 0
        assert scores[out].max() <= most
        assert count < 0.4 * n
