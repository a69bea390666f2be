"""Merges along a line: what one merge gives at every setting, against a merge at each."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from taskloom.merging.executor import SLICE, execute, plan_merge
from taskloom.merging.recipe import Recipe
from taskloom.runs import line as line_module
from taskloom.runs.line import Line
from taskloom.store.memory import MemoryCheckpoint
from taskloom.store.pool import Expert, Pool

SETTINGS = (0.1, 0.3, 0.7, 1.0, 1.5)


def pool(*, dtype=torch.float32, long=False) -> Pool:
    rng = np.random.default_rng(0)

    def weights() -> dict[str, torch.Tensor]:
        shapes = {"one.weight": (6, 5), "one.bias": (6,), "two.weight": (4, 6)}
        if long:
            shapes["long"] = (SLICE + 7,)
        found = {n: torch.from_numpy(rng.normal(size=s)).to(dtype) for n, s in shapes.items()}
        return {**found, "steps": torch.arange(3)}

    base, *experts = [MemoryCheckpoint(weights(), label=name) for name in ("base", "a", "b", "c")]
    return Pool(base, tuple(Expert(w.label, w) for w in experts))


def at(method):
    return lambda scale: Recipe.of(method, scale=scale)


def merged(pool, recipe):
    with torch.inference_mode():
        return dict(execute(plan_merge(pool, recipe.chain)))


STRAIGHT = ["task_arithmetic", "ties", "iso_c", "tsv_merge", "task_negation", "magnitude_pruning", "pcb"]


@pytest.mark.parametrize("method", STRAIGHT)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_exact_is_the_merge_at_the_setting_byte_for_byte(method, dtype):
    experts = pool(dtype=dtype)
    line = Line(experts, at(method), "scale")
    assert line.straight
    for setting in SETTINGS:
        found, wanted = line.exact(setting), merged(experts, at(method)(setting))
        assert list(found) == list(wanted)
        assert all(
            torch.equal(found[n], wanted[n]) and found[n].dtype == wanted[n].dtype for n in wanted
        )


def test_tensors_longer_than_a_slice_are_put_together_in_order():
    experts = pool(long=True)
    line = Line(experts, at("task_arithmetic"), "scale")
    assert torch.equal(line.exact(0.3)["long"], merged(experts, at("task_arithmetic")(0.3))["long"])


@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "iso_c"])
def test_the_line_runs_from_the_base_to_the_merge_at_one(method):
    experts = pool()
    line, end = Line(experts, at(method), "scale"), merged(experts, at(method)(1.0))
    for setting in SETTINGS:
        for name, tensor in line.at(setting).items():
            start = experts.base.read(name)
            if name == "steps":
                assert torch.equal(tensor, start)
            else:
                assert torch.equal(tensor, torch.lerp(start, end[name], setting))


def test_it_is_merged_once(monkeypatch):
    merges = []
    real = line_module.execute
    monkeypatch.setattr(line_module, "execute", lambda *a, **k: merges.append(1) or real(*a, **k))
    line = Line(pool(), at("ties"), "scale")
    assert line.seconds == 0
    for setting in SETTINGS:
        line.at(setting)
        line.exact(setting)
    assert merges == [1]
    assert line.seconds > 0


def test_what_is_no_line_is_merged_at_every_setting():
    experts = pool()
    line = Line(experts, at("metagpt"), "scale")
    crooked = Line(experts, lambda d: Recipe.of("ties", density=d), "density")
    assert line.straight
    assert not crooked.straight
    for setting in (0.2, 0.5):
        wanted = merged(experts, Recipe.of("ties", density=setting))
        for found in (crooked.at(setting), crooked.exact(setting)):
            assert all(torch.equal(found[n], wanted[n]) for n in wanted)
