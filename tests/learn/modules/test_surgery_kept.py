"""Surgery, at the end or after every block, keeps the epoch nearest to the expert on unseen inputs."""

import pytest
import torch

from taskloom.learn.modules.kit.low_rank_map import subtract
from taskloom.learn.modules.kit.opening import fit_module
from taskloom.learn.probe import Examples

from .small import Deep, averaged, inputs, problem
from .test_surgery import feature
from .test_surgery_v2 import blocks

PLACES = ("blocks.0", "blocks.1", "final")
HOW = {"rank": 6, "learning_rate": 0.05}


def held(on, *, labels=False, sizes=(20, 20, 20)):
    """Return validation inputs of every task, which no fit sees, in batches of some sizes."""
    found = {}
    for k, task in enumerate(on.tasks):
        parts = inputs(sum(sizes), seed=70 + k).split(sizes)
        found[task] = Examples.of([(x, torch.full((len(x),), 2) if labels else None) for x in parts])
    return found


def distance(on, merged, fitted, task, examples):
    """Mean absolute difference to the expert's features, in plain torch; of all places the sum."""
    expert = {n: on.experts[on.own[task]].read(n) for n in merged}
    x = torch.cat([given for given, _ in examples])
    if fitted.kind == "surgery":
        down, up = fitted.tensors[f"{task}/down"], fitted.tensors[f"{task}/up"]
        z, wanted = feature(Deep(), merged, x), feature(Deep(), expert, x)
        return float((subtract(z, down, up) - wanted).abs().mean())
    maps = {p: [fitted.tensors[f"{task}/{p}/{n}"] for n in ("down", "up")] for p in PLACES}
    pairs = zip(blocks(merged, x, maps), blocks(expert, x), strict=True)
    return sum(float((one - other).abs().mean()) for one, other in pairs)


@pytest.mark.parametrize("kind", ["surgery", "surgery_v2"])
def test_what_is_kept_is_the_nearest_epoch_of_every_task(kind):
    """Every epoch again as a fit of its own: none is nearer, and the one that is named is that near."""
    bare = problem(n=6, size=3)
    on = problem(n=6, size=3, validation=held(bare, sizes=(20, 33, 7)))
    merged = averaged(on)
    fitted = fit_module(kind, on, merged, steps=60, **HOW)
    epochs = {step: fit_module(kind, bare, merged, steps=step, **HOW) for step in range(0, 61, 2)}
    for task in on.tasks:
        found = {s: distance(on, merged, one, task, on.validation[task]) for s, one in epochs.items()}
        best = min(found, key=found.get)
        told, value = fitted.said[f"kept {task}"].removesuffix(" on validation inputs").split(", ")
        assert told == f"step {best}"
        assert float(value.removeprefix("distance ")) == pytest.approx(found[best], rel=1e-4)
        for name, tensor in epochs[best].tensors.items():
            if name.startswith(f"{task}/"):
                assert torch.allclose(fitted.tensors[name], tensor)
        assert 0 < best < 60  # learned, then learned by heart
        assert found[best] < found[60]
        start, end = fitted.said[f"distance {task}"].split(" -> ")
        assert (start, end) == tuple(epochs[best].said[f"distance {task}"].split(" -> "))


@pytest.mark.parametrize("kind", ["surgery", "surgery_v2"])
def test_labels_of_validation_change_nothing(kind):
    on = problem()
    one, two = (
        fit_module(kind, problem(validation=held(on, labels=told)), averaged(on), steps=9)
        for told in (False, True)
    )
    assert one.digest() == two.digest()
    assert one.said["labels"] == "not used"


@pytest.mark.parametrize("kind", ["surgery", "surgery_v2"])
def test_where_fitting_only_harms_nothing_is_changed(kind):
    on = problem()
    validation = held(on)
    merged = averaged(on)
    fitted = fit_module(kind, problem(validation=validation), merged, steps=6, rank=2, learning_rate=1e3)
    for task in on.tasks:
        assert fitted.said[f"kept {task}"].startswith("step 0, ")
    assert not any(tensor.any() for name, tensor in fitted.tensors.items() if name.endswith("/up"))


@pytest.mark.parametrize("kind", ["surgery", "surgery_v2"])
def test_a_task_without_validation_keeps_its_last_numbers(kind):
    on = problem()
    some = {"mood": held(on)["mood"]}
    merged = averaged(on)
    fitted = fit_module(kind, problem(validation=some), merged, steps=9, **HOW)
    last = fit_module(kind, on, merged, steps=9, **HOW)
    for name, tensor in last.tensors.items():
        if name.startswith("topic/"):
            assert torch.equal(fitted.tensors[name], tensor)
    assert "kept mood" in fitted.said
    assert "kept topic" not in fitted.said
