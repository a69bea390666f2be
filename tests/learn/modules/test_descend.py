"""The loop that fits modules: what is not finite stops it before it reaches the numbers."""

import math

import pytest
import torch

from taskloom.learn.modules.kit.artefact import FittedModule
from taskloom.learn.modules.kit.descend import Descent, ModuleStopped, descend

from .small import problem

STEPS = 4


def fit(*, fails, together=True, rule="adam"):
    """Descend ``w ** 2`` of two tasks; in one step the second has a finite loss and a NaN gradient."""
    w = torch.tensor([1.0, -2.0], requires_grad=True)
    seen = []

    def losses(step):
        seen.append(w.detach().clone())
        yield "mood", (w**2).sum()
        bad = torch.sqrt(0.0 * w.sum()) if step + 1 == fails else 0.0  # sqrt'(0) * 0
        yield "topic", (w**2).sum() + bad

    def build(trace):
        return FittedModule("made", {"w": w.detach().clone()}, {}, trace=trace)

    how = Descent(STEPS, 0.1, together=together, rule=rule)
    try:
        return descend({"w": w}, losses, build, how, name="made", on=problem()), seen
    except ModuleStopped as error:
        return error, seen


@pytest.mark.parametrize("rule", ["adam", "gradient"])
@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("fails", [1, 2, STEPS])
def test_a_gradient_that_is_not_finite_stops_and_the_numbers_before_are_kept(fails, together, rule):
    error, seen = fit(fails=fails, together=together, rule=rule)
    assert isinstance(error, ModuleStopped)
    said = f"made: the gradient of task 'topic' by 'w' holds NaN or infinity at step {fails}"
    assert str(error).startswith(said)
    kept = error.fitted.tensors["w"]
    assert torch.equal(kept, seen[max(fails - 2, 0)])  # those that the last good losses were taken at
    assert len(error.fitted.trace) == fails - 1
    assert all(math.isfinite(step.loss) for step in error.fitted.trace)


def test_finite_gradients_run_to_the_end():
    found, seen = fit(fails=None)
    assert len(found.trace) == STEPS == len(seen)
