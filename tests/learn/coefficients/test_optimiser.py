"""The optimisers against torch's."""

import pytest
import torch

from taskloom.learn.coefficients.optimiser import Optimiser

THEIRS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("kind", THEIRS)
def test_many_steps_are_those_of_torch(kind, decay):
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    ours, theirs = start.clone(), start.clone().requires_grad_()
    mine, other = Optimiser(kind, decay), THEIRS[kind]([theirs], lr=0.1, weight_decay=decay)
    for step in range(20):
        rate = 0.1 / (step + 1)
        gradient = torch.randn(3, 4, generator=generator, dtype=torch.float64)
        mine.step(ours, gradient, rate)
        theirs.grad = gradient.clone()
        for group in other.param_groups:
            group["lr"] = rate
        other.step()
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-10, atol=1e-12)
