"""Options chosen on validation: the shortcut equals real merges, and of equals the smallest wins."""

from __future__ import annotations

from types import SimpleNamespace as Thing

import pytest
import torch

from taskloom.errors import PlanError
from taskloom.merging.executor import execute, plan_merge
from taskloom.runs import line, sweep
from taskloom.runs.candidates import merge_digest, merged, pool_digest, singles
from taskloom.runs.plan import Merge, _short_merge
from taskloom.runs.workspace import Workspace
from taskloom.store.memory import MemoryCheckpoint
from taskloom.store.pool import Expert, Pool

SCALES = [0.1, 0.3, 1.0, 1.7]


def make_pool(dtype=torch.float32, seed=0) -> Pool:
    generator = torch.Generator().manual_seed(seed)

    def weights():
        return {
            "a.weight": torch.randn(6, 5, generator=generator).to(dtype),
            "a.bias": torch.randn(6, generator=generator).to(dtype),
            "steps": torch.tensor([3]),
        }

    base = weights()
    experts = []
    for name in ("x", "y"):
        moved = {k: (v + 0.1 * d if v.is_floating_point() else v) for (k, v), d in
                 zip(base.items(), weights().values(), strict=True)}  # fmt: skip
        experts.append(
            Expert(name, MemoryCheckpoint({k: v.to(base[k].dtype) for k, v in moved.items()}))
        )
    return Pool(MemoryCheckpoint(base), tuple(experts))


class FakeBench:
    """Counts what is measured; a setting's value is looked up by how far the merge is from the base."""

    def __init__(self, tmp_path, values=None, items=()):
        self.workspace = Workspace(tmp_path)
        self.plan = Thing(seed=0, merge=list(items))
        self.digest = "bench"
        self.values = values
        self.measured = 0
        self.progress = lambda *_: None

    def validate(self, weights):
        value = self.values[self.measured]
        self.measured += 1
        return [(value, value - 0.1, value + 0.1, 50), (value, value - 0.1, value + 0.1, 30)]


def item(short) -> Merge:
    return Merge.model_validate(_short_merge(short))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(
    "short",
    [
        {"task_arithmetic": {}},
        {"task_negation": {}},
        {"ties": {"density": 0.4}},
        {"dare_ties": {"p": 0.5}},
        {"breadcrumbs": {}},
    ],
    ids=lambda short: next(iter(short)),
)
def test_the_line_through_base_and_unit_merge_equals_real_merges(tmp_path, short, dtype, monkeypatch):
    pool, bench, what = make_pool(dtype), FakeBench(tmp_path), item(short)
    assert sweep._linear(what, bench, "scale")
    real = [
        dict(execute(plan_merge(pool, sweep._at(what, bench, "scale", scale).chain))) for scale in SCALES
    ]
    calls = []
    monkeypatch.setattr(line, "execute", lambda *a, **k: calls.append(1) or execute(*a, **k))
    quick = list(sweep._settings(pool, what, bench, "scale", SCALES))
    assert len(calls) == 1, "merged once"
    tolerance = {"rtol": 1e-6, "atol": 1e-6} if dtype != torch.bfloat16 else {"rtol": 1e-2, "atol": 1e-2}
    for one, other in zip(quick, real, strict=True):
        assert list(one) == list(other)
        for name in one:
            assert one[name].dtype == other[name].dtype
            torch.testing.assert_close(one[name], other[name], **tolerance)


def test_an_option_that_is_not_the_last_factor_is_merged_each_time(tmp_path, monkeypatch):
    bench, what, pool = FakeBench(tmp_path), item({"ties": {}}), make_pool()
    assert not sweep._linear(what, bench, "density")
    calls = []
    monkeypatch.setattr(line, "execute", lambda *a, **k: calls.append(1) or execute(*a, **k))
    assert len(list(sweep._settings(pool, what, bench, "density", [0.2, 0.5]))) == len(calls) == 2


@pytest.mark.parametrize(
    ("values", "chosen"),
    [([0.5, 0.7, 0.6], 0.3), ([0.7, 0.7, 0.7], 0.1), ([0.5, 0.7, 0.7], 0.3), ([0.1, 0.2, 0.9], 1.0)],
)
def test_the_best_setting_wins_and_of_equals_the_smallest(tmp_path, values, chosen):
    """Values are of the settings in rising order, whatever order the plan has them in."""
    what = item({"task_arithmetic": {"sweep": {"scale": [1.0, 0.1, 0.3, 0.3]}}})
    bench = FakeBench(tmp_path, values, [what])
    (candidate,), points = sweep.prepare_merges(make_pool(), bench)
    assert candidate.recipe.options["scale"] == chosen
    assert [p.setting for p in points] == [0.1, 0.3, 1.0]
    assert [p.chosen for p in points] == [p.setting == chosen for p in points]
    assert [p.value for p in points] == values
    assert {p.n for p in points} == {80}
    assert all(p.low < p.value < p.high for p in points)


def test_a_sweep_is_measured_once_and_again_when_anything_changes(tmp_path):
    what = item({"task_arithmetic": {"sweep": {"scale": [0.1, 0.3]}}})
    bench = FakeBench(tmp_path, [0.5] * 20, [what])

    def measured(pool=None) -> int:
        before = bench.measured
        sweep.prepare_merges(pool or make_pool(), bench)
        return bench.measured - before

    assert [measured(), measured()] == [2, 0]
    assert measured(make_pool(seed=1)) == 2, "other weights"
    bench.digest = "other tasks, heads or encoder"
    assert measured() == 2
    bench.plan.merge = [item({"task_arithmetic": {"sweep": {"scale": [0.1, 0.3, 0.5]}}})]
    assert measured() == 3


def test_without_a_sweep_nothing_is_measured(tmp_path):
    bench = FakeBench(tmp_path, [], [item("average"), item({"ties": {"density": 0.5, "name": "T"}})])
    candidates, points = sweep.prepare_merges(make_pool(), bench)
    assert [c.name for c in candidates] == ["average", "T"]
    assert points == []


# --- candidates -------------------------------------------------------------------------------


def test_candidates_of_a_pool():
    pool = make_pool()
    base, x, y = singles(pool)
    assert [c.name for c in (base, x, y)] == ["base", "expert:x", "expert:y"]
    assert [c.kind for c in (base, x, y)] == ["base", "expert", "expert"]
    torch.testing.assert_close(x.weights()["a.bias"], pool.experts[0].checkpoint.read("a.bias"))
    assert len({c.digest for c in (base, x, y)}) == 3


def test_a_merge_is_made_when_asked_and_says_what_it_costs(tmp_path):
    pool = make_pool()
    recipe = sweep._at(item({"ties": {"density": 0.4}}), FakeBench(tmp_path), "scale", 0.5)
    candidate = merged(pool, recipe, name="ties", title="TIES")
    record = candidate.record()
    assert (record.kind, record.method, record.reads) == ("merge", "ties", 3)
    assert record.options["density"] == 0.4
    assert record.composition.startswith("keep(0.4, model)")
    wanted = dict(execute(plan_merge(pool, recipe.chain)))
    for name, tensor in candidate.weights().items():
        torch.testing.assert_close(tensor, wanted[name], rtol=0, atol=0)


def test_a_seed_of_the_merge_s_own_counts_and_only_where_there_is_one():
    own = item({"dare_ties": {"seed": 5}})
    assert own.recipe(0).options["seed"] == 5
    assert item("dare_ties").recipe(3, scale=0.5).plain()["seed"] == 3
    assert "seed" not in item("ties").recipe(3).options
    with pytest.raises(PlanError, match="unknown option 'seed'"):
        item({"ties": {"seed": 5}}).recipe(0)


def test_digests_follow_weights_names_order_and_recipe(tmp_path):
    pool, bench = make_pool(), FakeBench(tmp_path)
    recipe = sweep._at(item("ties"), bench, "scale", 0.5)
    x, y = pool.experts
    others = [
        Pool(pool.base, (y, x)),
        Pool(pool.base, (Expert("z", x.checkpoint), y)),
        Pool(x.checkpoint, (x, y)),
        make_pool(seed=2),
    ]
    digests = [pool_digest(each) for each in (pool, *others)]
    assert len(set(digests)) == len(digests)
    assert merge_digest(pool, recipe) == merge_digest(pool, sweep._at(item("ties"), bench, "scale", 0.5))
    seeds = [sweep._at(item({"dare_ties": {"seed": s}}), bench, "scale", 1.0) for s in (1, 2)]
    assert merge_digest(pool, seeds[0]) != merge_digest(pool, seeds[1])
