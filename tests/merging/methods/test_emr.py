"""EMR-Merging: card 23."""

import numpy as np
import pytest
import torch

from taskloom import merge
from taskloom.errors import NumericalError, PlanError

from ..fixture import BASE, TAU1, TAU2, THETA1, THETA2, close, merged

NAMES = ["one", "two"]


def of(task, **options):
    return merged_named(task=task, **options)


def merged_named(experts=(THETA1, THETA2), cuts=((0, 6),), **options):
    def weights(values):
        return {f"t{a}": torch.tensor(values[a:b]) for a, b in cuts}

    found = merge(weights(BASE), [weights(e) for e in experts], "emr", names=NAMES, **options)
    return torch.cat(list(found.values())).numpy()


def test_card_23():
    assert of("one") == close([1.375, -0.25, 0.125, 0.4375, 0.25, -0.5])
    assert of("two") == close([0.931034, 0.127155, -0.036638, 0.215517, 0.573276, -0.553879])


def test_card_23_without_a_task():
    shared = np.array([0.5, 0.4375, -0.1875, 0.25, 0.375, -0.0625])
    assert merged_named() == close(BASE + shared)


def test_card_23_released():
    shared = np.array([0.5, 0.4375, -0.1875, 0.25, 0.375, -0.0625])
    found = of("two", variant="released", cuts=((0, 2), (2, 6)))
    assert found == close(BASE + 0.818182 * shared)
    assert of("two", cuts=((0, 2), (2, 6))).tolist() == of("two").tolist()


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("variant", ["paper", "released"])
def test_the_rule_restated(count, variant):
    taus = np.random.default_rng(count).normal(size=(count, 2, 3, 4))
    flag = np.where(taus.mean(0) > 0, 1.0, -1.0)
    agree = taus * flag > 0
    shared = flag * np.where(agree, abs(taus), 0).max(0)
    axes = (1, 2, 3) if variant == "paper" else (2, 3)
    own, taken = abs(taus).mean(axes), abs(agree * shared).mean(axes)
    if variant == "released":  # two tensors of equal size: sums of means
        own, taken = own.sum(1), taken.sum(1)
    base = {"a": torch.zeros(3, 4, dtype=torch.float64), "b": torch.zeros(3, 4, dtype=torch.float64)}
    experts = [{"a": torch.from_numpy(t[0]), "b": torch.from_numpy(t[1])} for t in taus]
    names = [f"task {k}" for k in range(count)]
    for k, name in enumerate(names):
        found = merge(base, experts, "emr", names=names, task=name, variant=variant)
        wanted = own[k] / taken[k] * agree[k] * shared
        np.testing.assert_allclose(found["a"].numpy(), wanted[0], atol=1e-12)
        np.testing.assert_allclose(found["b"].numpy(), wanted[1], atol=1e-12)


def test_equal_experts_are_returned():
    assert of("one", experts=(THETA1, THETA1)) == close(THETA1)


def test_an_expert_that_agrees_nowhere_has_the_base():
    opposite = [b - t / 2 for b, t in zip(BASE, TAU2, strict=True)]
    assert of("one", experts=(opposite, THETA2)) == close(BASE)


def test_task_vectors_of_zero_give_the_base():
    assert of("one", experts=(BASE, BASE)) == close(BASE)


def test_a_task_that_is_not_in_the_pool():
    with pytest.raises(PlanError, match="there is no expert 'twoo': did you mean 'two'"):
        of("twoo")


def test_a_nan_is_refused():
    with pytest.raises(NumericalError, match="1 NaN or infinite"):
        of("one", experts=(THETA1, [float("nan"), *TAU1[1:]]))


def test_a_base_is_needed():
    with pytest.raises(PlanError, match="needs the base"):
        merged("emr", base=None)
