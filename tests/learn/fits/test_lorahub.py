"""LoraHub's search: card 9, the objective restated, low rank kept, seeds, resuming, bad input."""

import json

import numpy as np
import pytest
import torch

import taskloom
from taskloom.errors import DataError, PlanError
from taskloom.learn.fits.lorahub import drawn, lorahub, penalty
from taskloom.learn.search.adapters import AdapterMixer
from taskloom.store.open import open_checkpoint

from ..search.small import adapted, cross_entropies, mixed, module_of
from ..toy import toy


def test_card_9_the_released_objective():
    assert 1.2 / 5 + penalty({"a": 0.5, "b": -0.25}, 0.05, "released") == pytest.approx(0.25875)
    assert penalty({"a": 0.5, "b": -0.25}, 0.05, "paper") == pytest.approx(0.0375)


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_the_objective_restated(tmp_path, variant):
    on, _, _ = adapted(tmp_path, n=5, batch=3)
    found = lorahub(on, variant=variant, evaluations=6)
    (x, y), (x2, y2) = on.batches["target"]
    for step in found.trace:
        weights = {name: step.values[f"weights.{name}"] for name in on.names}
        net = module_of(mixed(on.base, on.experts, weights))
        one, two = cross_entropies(net, x, y), cross_entropies(net, x2, y2)
        size = sum(map(abs, weights.values()))
        if variant == "paper":
            wanted = np.concatenate([one, two]).mean() + 0.05 * size
        else:
            wanted = (one.mean() + two.mean()) / 5 + 0.05 * size / 3
        assert step.loss == pytest.approx(wanted, abs=1e-5)


def test_forty_evaluations_get_below_the_base(tmp_path):
    on, _, _ = adapted(tmp_path)
    found = lorahub(on)
    assert len(found.trace) == 40
    base = cross_entropies(module_of({n: on.base.read(n) for n in on.base.tensors}), *only(on)).mean()
    assert min(step.loss for step in found.trace) < 0.7 * base
    assert float(found.said["loss"]) == pytest.approx(found.trace[-1].values["best"], rel=1e-5)
    best = min(found.trace, key=lambda step: step.loss)
    assert found.options["weights"] == {name: best.values[f"weights.{name}"] for name in on.names}
    assert found.said["labels"] == "used"
    assert "CMA" in found.said["optimiser"]
    assert found.said["modules"] == "e0, e1, e2"


def only(on):
    ((x, y),) = on.batches["target"]
    return x, y


def test_ngopt_begins_at_the_base(tmp_path):
    on, _, _ = adapted(tmp_path)
    found = lorahub(on, optimiser="ngopt", evaluations=6)
    assert [found.trace[0].values[f"weights.{name}"] for name in on.names] == [0.0, 0.0, 0.0]
    assert found.said["optimiser"] == "Cobyla"
    assert found.trace[0].loss == pytest.approx(
        cross_entropies(module_of({n: on.base.read(n) for n in on.base.tensors}), *only(on)).mean()
    )


def test_the_base_is_flat_and_small_steps_can_stay_there(tmp_path):
    on, _, _ = adapted(tmp_path)
    assert set(lorahub(on, optimiser="ngopt").options["weights"].values()) == {0.0}
    assert max(map(abs, lorahub(on).options["weights"].values())) > 0.3


def test_seeds(tmp_path):
    one, two, three = (adapted(tmp_path / str(i), seed=s)[0] for i, s in enumerate((1, 1, 2)))
    found = [[s.loss for s in lorahub(on, evaluations=6).trace] for on in (one, two, three)]
    assert found[0] == found[1] != found[2]


def test_the_recipe_is_a_merge_of_the_same_rank(tmp_path):
    on, base, experts = adapted(tmp_path)
    found = lorahub(on, evaluations=15)
    assert found.method == "lorahub"
    report = taskloom.merge_adapters(
        base, experts, found.method, tmp_path / "out", **json.loads(json.dumps(found.options))
    )
    assert [module.rank for module in report.modules] == [2, 2]
    ours = open_checkpoint(tmp_path / "out", base=open_checkpoint(base))
    searched = AdapterMixer(on, on.names)(found.options["weights"])
    assert set(searched) == {"up.weight", "down.weight"}
    for name, tensor in searched.items():
        torch.testing.assert_close(ours.read(name), tensor, atol=1e-5, rtol=1e-5)


def test_weights_stay_within_the_bound(tmp_path):
    on, _, _ = adapted(tmp_path)
    found = lorahub(on, bound=0.25, strength=0.0)
    rows = [[step.values[f"weights.{n}"] for n in on.names] for step in found.trace]
    assert 0.2 < np.abs(rows).max() <= 0.25


def test_of_a_large_pool_some_are_drawn_by_the_seed(tmp_path):
    names = tuple(f"e{i}" for i in range(30))
    assert drawn(names, 20, 1) == drawn(names, 20, 1) != drawn(names, 20, 2)
    assert len(set(drawn(names, 20, 1))) == 20
    on, _, _ = adapted(tmp_path, count=5, seed=3)
    found = lorahub(on, modules=2, evaluations=12)
    kept = drawn(on.names, 2, 3)
    assert list(found.options["weights"]) == list(on.names)
    assert {n for n, w in found.options["weights"].items() if w} <= set(kept)
    assert found.said["modules"] == ", ".join(kept)


def test_changes_without_cross_terms(tmp_path):
    on, base, experts = adapted(tmp_path)
    found = lorahub(on, combine="changes", evaluations=12)
    assert (found.method, found.options["scale"]) == ("task_arithmetic", 1.0)
    merged = taskloom.merge(base, experts, found.method, **found.options)
    wanted = on.base.read("up.weight").double()
    for name, weight in found.options["weights"].items():
        b, a, scaling = on.experts[name].factors("up.weight")
        wanted = wanted + weight * scaling * b.double() @ a.double()
    torch.testing.assert_close(merged["up.weight"].double(), wanted, atol=1e-5, rtol=1e-5)


def test_it_goes_on_where_it_was(tmp_path):
    whole, _, _ = adapted(tmp_path / "one")
    wanted = lorahub(whole, evaluations=25)
    calls = 0

    def stop(label, done, total):
        nonlocal calls
        calls += 1
        if calls == 8:
            raise KeyboardInterrupt

    journal = tmp_path / "journal.jsonl"
    broken, _, _ = adapted(tmp_path / "two", journal=journal, progress=stop)
    with pytest.raises(KeyboardInterrupt):
        lorahub(broken, evaluations=25)
    assert journal.read_bytes().count(b"\n") == 8
    again, _, _ = adapted(tmp_path / "three", journal=journal)
    found = lorahub(again, evaluations=25)
    assert found.options == wanted.options
    assert [step.loss for step in found.trace] == [step.loss for step in wanted.trace]
    assert journal.read_bytes().count(b"\n") == len({str(step.values) for step in wanted.trace})


def test_a_preference_between_tasks(tmp_path):
    on, _, _ = adapted(tmp_path, tasks=("one", "two"))
    found = lorahub(on, prefer={"two": 3.0, "one": 1.0}, evaluations=5)
    assert found.said["preference"] == "one 0.25, two 0.75"
    for step in found.trace:
        size = sum(abs(step.values[f"weights.{n}"]) for n in on.names)
        mixed_loss = 0.25 * step.values["loss one"] + 0.75 * step.values["loss two"]
        assert step.loss == pytest.approx(mixed_loss + 0.05 * size)


# --- bad input --------------------------------------------------------------------------------


def test_a_budget_too_small(tmp_path):
    on, _, _ = adapted(tmp_path)
    with pytest.raises(PlanError, match="0 evaluations is too small for one"):
        lorahub(on, evaluations=0)
    with pytest.raises(PlanError, match="too small for one evaluation, which took"):
        lorahub(on, minutes=1e-9)


def test_experts_that_are_no_adapters():
    with pytest.raises(PlanError, match=r"expert 'one'.*no LoRA adapter.*combine=changes"):
        lorahub(toy())


def test_ranks_that_differ(tmp_path):
    on, _, _ = adapted(tmp_path, ranks=[2, 3, 2], labels=torch.zeros(5, dtype=torch.int64))
    with pytest.raises(PlanError, match="ranks differ"):
        lorahub(on)


def test_no_labels(tmp_path):
    on, _, _ = adapted(tmp_path)
    x = next(iter(on.batches["target"]))[0]
    bare, _, _ = adapted(tmp_path / "bare")
    object.__setattr__(bare, "batches", {"target": type(on.batches["target"]).of([(x, None)])})
    with pytest.raises(DataError, match="needs labels, and a batch has none"):
        lorahub(bare)


def test_no_way_to_merge():
    with pytest.raises(PlanError, match="does not say how to merge"):
        lorahub(toy(), combine="changes")
