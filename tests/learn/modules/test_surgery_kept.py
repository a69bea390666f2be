"""Surgery on few inputs keeps the epoch that is nearest to the expert on inputs it is not fitted on."""

import pytest
import torch

from taskloom.learn.modules.kit.low_rank_map import subtract
from taskloom.learn.modules.kit.opening import fit_module
from taskloom.learn.probe import Examples

from .small import Deep, averaged, inputs, problem
from .test_surgery import feature

HOW = {"rank": 6, "learning_rate": 0.05}


def held(on, *, labels=False, n=60):
    """Return validation inputs of every task, which no fit sees."""
    found = {}
    for k, task in enumerate(on.tasks):
        x = inputs(n, seed=70 + k)
        y = torch.full((20,), 2) if labels else None
        found[task] = Examples.of([(x[i : i + 20], y) for i in range(0, n, 20)])
    return found


def distance(on, merged, fitted, task, examples):
    """Mean absolute difference to the expert's feature, in plain torch."""
    expert = {n: on.experts[on.own[task]].read(n) for n in merged}
    down, up = fitted.tensors[f"{task}/down"], fitted.tensors[f"{task}/up"]
    x = torch.cat([given for given, _ in examples])
    z, wanted = feature(Deep(), merged, x), feature(Deep(), expert, x)
    return float((subtract(z, down, up) - wanted).abs().mean())


def test_what_is_kept_is_the_nearest_epoch_of_every_task():
    """Every epoch again as a fit of its own: none is nearer, and the one that is named is that near."""
    on = problem(n=6, size=3)
    on = problem(n=6, size=3, validation=held(on))
    merged = averaged(on)
    fitted = fit_module("surgery", on, merged, steps=60, **HOW)
    bare = problem(n=6, size=3)
    epochs = {step: fit_module("surgery", bare, merged, steps=step, **HOW) for step in range(0, 61, 2)}
    for task in on.tasks:
        found = {s: distance(on, merged, one, task, on.validation[task]) for s, one in epochs.items()}
        best = min(found, key=found.get)
        told, value = fitted.said[f"kept {task}"].removesuffix(" on validation inputs").split(", ")
        assert told == f"step {best}"
        assert float(value.removeprefix("distance ")) == pytest.approx(found[best], rel=1e-4)
        assert torch.allclose(fitted.tensors[f"{task}/up"], epochs[best].tensors[f"{task}/up"])
        assert 0 < best < 60  # learned, then learned by heart
        assert found[best] < found[60]


def test_labels_of_validation_change_nothing():
    on = problem()
    one, two = (
        fit_module("surgery", problem(validation=held(on, labels=told)), averaged(on), steps=9)
        for told in (False, True)
    )
    assert one.digest() == two.digest()
    assert one.said["labels"] == "not used"


def test_where_fitting_only_harms_nothing_is_changed():
    on = problem()
    validation = held(on)
    merged = averaged(on)
    fitted = fit_module(
        "surgery", problem(validation=validation), merged, steps=6, rank=2, learning_rate=1e3
    )
    for task in on.tasks:
        assert fitted.said[f"kept {task}"].startswith("step 0, ")
        assert not fitted.tensors[f"{task}/up"].any()


def test_a_task_without_validation_keeps_its_last_numbers():
    on = problem()
    some = {"mood": held(on)["mood"]}
    merged = averaged(on)
    fitted = fit_module("surgery", problem(validation=some), merged, steps=9, **HOW)
    last = fit_module("surgery", on, merged, steps=9, **HOW)
    assert torch.equal(fitted.tensors["topic/up"], last.tensors["topic/up"])
    assert "kept mood" in fitted.said
    assert "kept topic" not in fitted.said
