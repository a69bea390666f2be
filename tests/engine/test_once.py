"""Order statistics of a tensor found in one read are those that two reads find."""

import pytest
import torch

from taskloom.algebra import chain, cut, elect, keep, mean, total, weigh
from taskloom.algebra.fuse import fuse
from taskloom.merging import once

from .models import run, save_pool

pytest.importorskip("numba")
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
    "weighed": chain(weigh([1.0, -2.0]), keep(0.5, "tensor"), total()),
    "sce": fuse(0.3),
    "sce of little": fuse(0.001),
}


@pytest.mark.parametrize("coarse", [True, False])
@pytest.mark.parametrize("name", SORTED)
def test_one_read_finds_what_two_find(long_pools, monkeypatch, name, coarse):
    base, experts = long_pools[torch.bfloat16, coarse]
    plain = run(base, experts, SORTED[name], fused=False)
    for constant, value in {"SAMPLE": 1 << 12, "PIECES": 4, "LEAST": 8000}.items():
        monkeypatch.setattr(once, constant, value)
    found = []
    inner = once.order_statistics
    monkeypatch.setattr(once, "order_statistics", lambda *a: found.append(inner(*a)) or found[-1])
    for how in ({}, {"slice_bytes": 20000, "threads": 2}):
        assert run(base, experts, SORTED[name], **how) == plain, how
    assert len(found) >= 4
    assert any(each is not None for each in found) or name in {"sce of little", "most"}


def test_a_wrong_sample_costs_a_read_and_nothing_else(long_pools, monkeypatch):
    base, experts = long_pools[torch.float32, False]
    plain = run(base, experts, SORTED["ties"], fused=False)
    for constant, value in {"SAMPLE": 1 << 5, "PIECES": 2, "LEAST": 8000, "_WIDE": -2.0}.items():
        monkeypatch.setattr(once, constant, value)
    assert run(base, experts, SORTED["ties"]) == plain
